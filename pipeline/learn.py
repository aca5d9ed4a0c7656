"""The learned stages: a ranker trained on train, early-stopped on validation, and run on what is judged."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline import build
from pipeline.compose import reranked
from pipeline.mainjob import MainJob, Progress, code_of, fingerprint_of, versions, write_timing
from pipeline.reasons import reasons_of
from pipeline.stages import StageOutput
from rankers.protocol import Ranker
from retrieval.frames import QRELS
from retrieval.splits import cut_validation, unit_hash

EXPLAINED_ROWS = 2000
LEARN_CODE = (
    *code_of("rankers"),
    "pipeline/learn.py",
    "pipeline/build.py",
    "pipeline/compose.py",
    "pipeline/reasons.py",
    "retrieval/splits.py",
)


def rank_with(job: MainJob, name: str) -> StageOutput:
    """Train the ranker `name` and rank the validation and test queries with it.

    Writes `ranker/` (the artifact), run.parquet, curve.parquet, importance.json and timing.json.
    """

    def make(folder: Path) -> None:
        frame = pl.read_parquet(job.features.path / "features.parquet")
        train, valid = (labelled(frame, job.dataset.qrels[split]) for split in ("train", "valid"))
        curve = Curve(job.progress, name)
        ranker = build.fit_ranker(name, train, valid, seed=job.settings.seed, log=curve)
        ranker.save(folder / "ranker")
        curve.frame().write_parquet(folder / "curve.parquet")
        (folder / "importance.json").write_text(json.dumps(importance(ranker, valid), indent=1))
        judged = frame.join(
            pl.concat([job.dataset.qrels[s].select("qid") for s in ("valid", "test")]), on="qid", how="semi"
        )
        _rank(ranker, judged, folder)

    return job.stages.run(
        f"rank-{name}",
        inputs={"features": job.features.key, **_qrels_keys(job)},
        settings={"seed": job.settings.seed, **versions("lightgbm", "torch")},
        code=LEARN_CODE,
        make=make,
    )


def cross_validated(job: MainJob, name: str) -> StageOutput:
    """Rank every test query with a ranker `name` that was trained on the other folds' queries.

    For data sets without a train split. Writes run.parquet and timing.json; there is no one ranker to publish.
    """
    folds = job.settings.folds

    def make(folder: Path) -> None:
        frame = pl.read_parquet(job.features.path / "features.parquet")
        everything = labelled(frame, job.dataset.qrels["test"])
        fold_of = {qid: int(unit_hash(qid, job.settings.seed) * folds) for qid in everything["qid"].unique().sort()}
        fold = everything["qid"].replace_strict(fold_of, return_dtype=pl.Int32)
        held_out, milliseconds = [], 0.0
        for number in range(folds):
            mine = everything.filter(fold == number)
            if mine.is_empty():
                continue
            rest = everything.filter(fold != number)
            known = job.dataset.qrels["test"].join(rest, on="qid", how="semi")
            train, valid = cut_validation(known, job.queries, seed=job.settings.seed)
            ranker = build.fit_ranker(
                name,
                rest.join(train, on="qid", how="semi"),
                rest.join(valid, on="qid", how="semi"),
                seed=job.settings.seed,
                log=Curve(job.progress, name),
            )
            start = time.perf_counter()
            held_out.append(reranked(mine, ranker.score(mine)))
            milliseconds += 1000 * (time.perf_counter() - start)
        pl.concat(held_out).write_parquet(folder / "run.parquet")
        write_timing(folder, milliseconds / len(fold_of))

    return job.stages.run(
        f"rank-{name}",
        inputs={"features": job.features.key, **_qrels_keys(job)},
        settings={"seed": job.settings.seed, "folds": folds, **versions("lightgbm", "torch")},
        code=LEARN_CODE,
        make=make,
    )


class Curve:
    """Collects what training logs, as rows of (step, metrics), and shows the step as progress."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self._rows: list[dict[str, float]] = []

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        self._rows.append({"step": step, **metrics})
        self._progress(f"train {self._name}", step, 0)

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(self._rows, infer_schema_length=None).cast({"step": pl.Int64})


def labelled(features: pl.DataFrame, qrels: pl.DataFrame) -> pl.DataFrame:
    """The FEATURES rows of the queries that `qrels` judges, with their `relevance`; unjudged and negative count 0."""
    relevance = pl.col("relevance").fill_null(0).clip(lower_bound=0)
    return (
        features.join(qrels, on="qid", how="semi")
        .join(qrels.select(*QRELS), on=["qid", "docid"], how="left", maintain_order="left")
        .with_columns(relevance)
    )


def importance(ranker: Ranker, features: pl.DataFrame) -> dict[str, float]:
    """Mean absolute contribution of each feature to the score, over a sample of whole queries."""
    return reasons_of(ranker, features, rows=EXPLAINED_ROWS).importance()


def _rank(ranker: Ranker, features: pl.DataFrame, folder: Path) -> None:
    start = time.perf_counter()
    run = reranked(features, ranker.score(features))
    write_timing(folder, 1000 * (time.perf_counter() - start) / max(features["qid"].n_unique(), 1))
    run.write_parquet(folder / "run.parquet")


def _qrels_keys(job: MainJob) -> dict[str, str]:
    return {split: fingerprint_of(qrels.select(*QRELS)) for split, qrels in job.dataset.qrels.items()}
