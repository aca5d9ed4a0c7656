"""From runs to a leaderboard: metrics, intervals, and which differences are more than luck."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import polars as pl

from pipeline.comparable import fingerprints_of
from pipeline.learn import cross_validated, rank_with
from pipeline.mainjob import MainJob, read_run, read_timing
from pipeline.results import Leaderboard, StageName, System, Versus
from pipeline.stages import StageOutput
from retrieval.metrics import Blank, fill_blank, mean, per_query
from retrieval.significance import bootstrap_ci, holm, randomisation_test

Param: TypeAlias = str | int | float | bool

METRICS = ("ndcg_cut_10", "ndcg_exp_cut_10", "recip_rank", "recall_100")
HEADLINE = METRICS[0]
CURVE_AT = (1, 3, 5, 10, 20, 50, 100)
STAGE_OF: Mapping[str, StageName] = {"bm25": "retrieve", "dense": "retrieve", "fused": "fuse"}


def leaderboard(job: MainJob, *, blank: Blank) -> Leaderboard:
    """Run every stage that the data set allows and judge each on the validation and test queries."""
    outputs = dict(job.runs)
    notes = []
    obstacle = _obstacle(job) if job.settings.rankers else None
    for name in job.settings.rankers:
        if obstacle is None:
            outputs[name] = rank_with(job, name)
        elif job.settings.folds:
            outputs[name] = cross_validated(job, name)
    if obstacle is not None and job.settings.folds:
        notes.append(
            f"{obstacle}: the learned rankers are judged by {job.settings.folds}-fold cross-validation by query"
        )
    elif obstacle is not None:
        notes.append(f"{obstacle}: the learned rankers are skipped (--folds 5 judges them by cross-validation)")
    if "valid" not in job.dataset.qrels:
        notes.append("no validation split: fusion weights are even, and `fused` is put forward unseen")
    systems = [_system(job, name, output, outputs, blank) for name, output in outputs.items()]
    early = [system for system in systems if system.stage != "rank"]
    baseline = _best(early)
    selected = _best([system for system in systems if system.ranker or system.stage != "rank"])
    return Leaderboard(
        dataset=job.dataset.name,
        fingerprint=job.dataset.fingerprint,
        split=job.dataset.judged_split,
        blank=blank,
        queries=job.dataset.qrels["test"]["qid"].n_unique(),
        systems=systems,
        baseline=baseline.name,
        selected=selected.name,
        versus=_versus(systems, baseline, blank),
        notes=notes,
        judged_on=fingerprints_of(job.dataset.qrels["test"], job.dataset.queries),
    )


def _obstacle(job: MainJob) -> str | None:
    """Why no ranker can be trained, or None."""
    reached = read_run(job.fused_run).filter(pl.col("rank") <= job.settings.candidates)
    for split in ("train", "valid"):
        if split not in job.dataset.qrels:
            return f"no {'train' if split == 'train' else 'validation'} split"
        relevant = job.dataset.qrels[split].filter(pl.col("relevance") > 0)
        if reached.join(relevant, on=["qid", "docid"], how="semi").is_empty():
            return f"no {split} query has a relevant document among its {job.settings.candidates} candidates"
    return None


def _system(job: MainJob, name: str, output: StageOutput, outputs: Mapping[str, StageOutput], blank: Blank) -> System:
    run = read_run(output)
    ranker = output.path / "ranker"
    # Cross-validation ranks the test queries alone: it has no one ranker that validation could be asked about.
    ranked = ("valid", "test") if name in STAGE_OF or ranker.exists() else ("test",)
    figures = {
        split: per_query(_of(run, job.dataset.qrels[split]), job.dataset.qrels[split], METRICS)
        for split in ranked
        if split in job.dataset.qrels
    }
    test = job.dataset.qrels["test"]
    by_k = mean(per_query(_of(run, test), test, [f"ndcg_cut_{k}" for k in CURVE_AT]), blank)
    stage_ms = _stage_ms(job, name, output, outputs)
    return System(
        name=name,
        stage=STAGE_OF.get(name, "rank"),
        key=output.key,
        params=_params(job, name, outputs),
        per_query=figures,
        metrics=mean(figures["test"], blank),
        ci95=bootstrap_ci(_values(figures["test"], blank)),
        ms_per_query=sum(stage_ms.values()),
        stage_ms=stage_ms,
        ndcg_by_k=dict(zip(CURVE_AT, by_k.values(), strict=True)),
        ranker=ranker if ranker.exists() else None,
        run=output.path / "run.parquet",
        curve=pl.read_parquet(output.path / "curve.parquet") if ranker.exists() else None,
        importance=json.loads((output.path / "importance.json").read_text()) if ranker.exists() else {},
    )


def _of(run: pl.DataFrame, qrels: pl.DataFrame) -> pl.DataFrame:
    return run.join(qrels, on="qid", how="semi", maintain_order="left")


def _values(figures: pl.DataFrame, blank: Blank) -> pl.Series:
    return fill_blank(figures, blank)[HEADLINE].drop_nulls()


def _stage_ms(job: MainJob, name: str, output: StageOutput, outputs: Mapping[str, StageOutput]) -> dict[str, float]:
    """The path to this system's ranking, stage by stage."""
    if STAGE_OF.get(name) == "retrieve":
        return {name: read_timing(output)}
    path = {stage: read_timing(outputs[stage]) for stage in ("bm25", "dense", "fused")}
    return path if name == "fused" else {**path, "features": read_timing(job.features), name: read_timing(output)}


def _params(job: MainJob, name: str, outputs: Mapping[str, StageOutput]) -> dict[str, Param]:
    s = job.settings
    bm25: dict[str, Param] = {"language": s.language, "bm25_k1": s.k1, "bm25_b": s.b, "depth": s.depth}
    dense: dict[str, Param] = {"encoder": s.encoder, "encoder_fingerprint": job.encoder_key[:12], "depth": s.depth}
    if name == "bm25":
        return bm25
    if name == "dense":
        return dense
    fused = json.loads((outputs["fused"].path / "fusion.json").read_text())
    fusion = {"fusion": fused["method"], **{f"weight_{stage}": w for stage, w in fused["weights"].items()}}
    learned = {"candidates": s.candidates, "seed": s.seed, "folds": s.folds} if name != "fused" else {}
    return {**bm25, **dense, **fusion, **learned}


def _best(systems: Sequence[System]) -> System:
    """The best mean on validation, earlier stages first among equals; without validation, the fused one.

    Which ranking is best is never read off the test queries.
    """
    if "valid" not in systems[0].per_query:
        return next(system for system in systems if system.name == "fused")
    return max(systems, key=lambda system: mean(system.per_query["valid"].select("qid", HEADLINE), "zero")[HEADLINE])


def _versus(systems: Sequence[System], baseline: System, blank: Blank) -> dict[str, Versus]:
    others = [system for system in systems if system is not baseline]
    base = _values(baseline.per_query["test"], blank)
    differences = {system.name: (_values(system.per_query["test"], blank) - base).to_numpy() for system in others}
    adjusted = holm([randomisation_test(values) for values in differences.values()]) if others else []
    return {
        name: Versus(difference=float(values.mean()), ci95=bootstrap_ci(values), p_value=p)
        for (name, values), p in zip(differences.items(), adjusted, strict=True)
    }
