"""Cascade's rankers beside LightGBM, XGBoost and CatBoost on MQ2008: same folds, same evaluator, one run.

    cascade bench ltr [--quick] [--json]            # or: python -m tests.bench.bench_ltr …

Figures are NDCG@10 over the pooled test queries of the five folds, mean over seeds; gain 2^relevance - 1, a query with
nothing relevant counts 1. Settings, stopping and blends are chosen on each fold's validation part alone. p: paired
randomisation test of the seeds' mean query by query, Holm-corrected over all pairs of ours with a rival. Fits are kept
under --home, so that a second run measures nothing again: the times in it are those of the first.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl

from pipeline import build
from pipeline.evaluation import Judged, averaged, compare, judge
from pipeline.ltr import Files, ltr
from pipeline.ltr_settings import defaults
from rankers.catalogue import BLEND, RANKERS
from retrieval.significance import holm
from tests.bench import mq2008
from tests.bench.bench_ltr_rivals import results
from tests.bench.ltr_rivals import RIVALS, bare_lightgbm_seconds

METRICS = (mq2008.METRIC, "ndcg_cut_10", "map", "err_10")
QUICK_RANKERS = ("regression", "lambdamart", "xendcg", "ranknet", "listnet", "listnet+attention", "blend")
QUICK_RIVALS = ("lightgbm regression", "lightgbm lambdarank", "xgboost rank:ndcg", "catboost QueryRMSE")
TARGETS = {"regression": 0.781, "lambdamart": 0.785, "ranknet": 0.778, "best neural listwise": 0.783, "blend": 0.790}


@dataclass(frozen=True)
class Runs:
    """A system's scores: seed → fold → SCORED of the test rows, and what it cost a fit."""

    name: str
    ours: bool
    runs: Mapping[int, Mapping[int, pl.DataFrame]]
    train_s: float
    predict_us_per_doc: float


def files_of(fold: int, folder: Path = mq2008.FOLDER) -> Files:
    """The published split of fold `fold` (1 to 5)."""
    parts = [folder / f"S{(fold - 1 + step) % mq2008.PARTS + 1}.txt.gz" for step in range(mq2008.PARTS)]
    return Files(parts[:3], parts[3:4], parts[4:])


def fit_ours(fold: int, names: Sequence[str], seeds: int, home: Path) -> None:
    """Fill the cache: what a worker process does."""
    ltr(files_of(fold), names, home=home, seeds=seeds, track=False, progress=_quiet)


def ours(names: Sequence[str], folds: Sequence[int], seeds: int, home: Path) -> list[Runs]:
    """Every ranker of ours, from the cache that `fit_ours` filled."""
    fits: dict[str, list[tuple[int, Any]]] = {name: [] for name in names}
    for fold in folds:
        result = ltr(files_of(fold), names, home=home, seeds=seeds, track=False, progress=_quiet)
        for name, row in result.fits.items():
            fits[name] += [(fold, fit) for fit in row]
    return [
        Runs(
            name,
            True,
            {seed: {fold: f.scores("test") for fold, f in row if f.seed == seed} for seed in range(seeds)},
            statistics.fmean(f.train_s for _, f in row),
            statistics.fmean(f.predict_us_per_doc for _, f in row),
        )
        for name, row in fits.items()
    ]


def rival_runs(name: str, folds: Sequence[int], seeds: int) -> Runs | None:
    """One rival over the folds, or None where its package is not installed."""
    rival = RIVALS[name]
    if not rival.installed:
        return None
    found: dict[int, dict[int, pl.DataFrame]] = {seed: {} for seed in range(seeds)}
    seconds, micros = [], []
    for number in folds:
        fold = mq2008.fold(number)
        for seed, result in enumerate(results(rival, fold, range(seeds))):
            found[seed][number] = mq2008.scored(fold[2], result.scores)
            seconds.append(result.train_seconds)
            micros.append(result.predict_us_per_doc)
    return Runs(name, False, found, statistics.fmean(seconds), statistics.fmean(micros))


def judged(system: Runs, qrels: pl.DataFrame) -> dict[int, Judged]:
    """Seed → its figures over the pooled test queries."""
    pooled = {str(seed): pl.concat(list(by_fold.values())) for seed, by_fold in system.runs.items()}
    return {int(seed): figures for seed, figures in judge(pooled, qrels, metrics=METRICS).items()}


def report(systems: Sequence[Runs], qrels: pl.DataFrame) -> dict[str, Any]:
    """The table, and every ranker of ours against every rival."""
    by_seed = {system.name: judged(system, qrels) for system in systems}
    over_seeds = {name: averaged({str(s): j for s, j in row.items()}) for name, row in by_seed.items()}
    evaluation = compare(over_seeds, metrics=METRICS, blank=mq2008.BLANK, qrels=qrels)
    rows = []
    for system in sorted(systems, key=lambda s: -evaluation.system(s.name).metrics[mq2008.METRIC].one):
        value = evaluation.system(system.name).metrics[mq2008.METRIC]
        seeds = [float(j.per_query[mq2008.METRIC].fill_null(1.0).mean()) for j in by_seed[system.name].values()]
        rows.append(
            {
                "name": system.name,
                "ours": system.ours,
                "ndcg_exp_cut_10": {"zero": value.zero, "one": value.one, "skip": value.skip},
                "ci95": list(value.ci95),
                "by_seed": seeds,
                "ndcg_cut_10_zero": evaluation.system(system.name).metrics["ndcg_cut_10"].zero,
                "map": evaluation.system(system.name).metrics["map"].zero,
                "err_10": evaluation.system(system.name).metrics["err_10"].zero,
                "train_s": system.train_s,
                "predict_us_per_doc": system.predict_us_per_doc,
            }
        )
    return {"queries": evaluation.queries, "blank_queries": evaluation.blank_queries, "systems": rows,
            "against_rivals": _against(systems, evaluation)}  # fmt: skip


def _against(systems: Sequence[Runs], evaluation: Any) -> list[dict[str, Any]]:
    mine = [system.name for system in systems if system.ours]
    theirs = [system.name for system in systems if not system.ours]
    pairs = [(one, other, evaluation.pair(one, other)) for one in mine for other in theirs]
    adjusted = holm([pair.p_value for _, _, pair in pairs]) if pairs else []
    return [
        {
            "ours": one,
            "rival": other,
            "difference": pair.difference if pair.one == one else -pair.difference,
            "p_holm": p,
            "significantly_below": p < 0.05 and pair.other == one,
        }
        for (one, other, pair), p in zip(pairs, adjusted, strict=True)
    ]


def overhead(repeats: int) -> dict[str, float]:
    """Training through Cascade over bare LightGBM: fold 1, same rows, parameters and rounds, taking turns, medians."""
    train, valid, _ = mq2008.fold(1)
    ratios = {}
    for name in ("regression", "lambdamart"):
        rounds, settings = 300, {**defaults(name, train.height), "patience": 10_000}
        # With these Cascade stops by a metric of its own, or reads more columns: the plain objective is what compares.
        for option in ("label_gain", "context"):
            settings.pop(option, None)
        own, bare = [], []
        for _ in range(repeats):
            start = time.process_time()
            ranker = build.fit_ranker(name, train, valid, seed=0, log=_unheard, settings={**settings, "rounds": rounds})
            own.append(time.process_time() - start)
            parameters = _lightgbm_parameters(ranker.hyperparameters)  # type: ignore[attr-defined]
            start = time.process_time()
            bare_lightgbm_seconds(train, valid, rounds=rounds, seed=0, threads=1, settings=parameters)
            bare.append(time.process_time() - start)
        ratios[name] = statistics.median(own) / statistics.median(bare)
    return ratios


def _lightgbm_parameters(said: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key not in ("context", "offset_feature", "rounds", "seed")}


def ranknet_seconds() -> float:
    """What RankNet takes to its early-stopped optimum on fold 1."""
    train, valid, _ = mq2008.fold(1)
    start = time.perf_counter()
    build.fit_ranker("ranknet", train, valid, seed=0, log=_unheard, settings=defaults("ranknet", train.height))
    return time.perf_counter() - start


def _unheard(metrics: Mapping[str, float], step: int) -> None:
    """Training logs to no one."""


def _quiet(stage: str, done: int, total: int) -> None:
    """Shows no progress."""


def _run(args: argparse.Namespace) -> dict[str, Any]:
    folds = range(1, (2 if args.quick else args.folds) + 1)
    seeds = 1 if args.quick else args.seeds
    names = args.rankers or (QUICK_RANKERS if args.quick else list(RANKERS))
    rivals = args.rivals if args.rivals is not None else (QUICK_RIVALS if args.quick else list(RIVALS))
    single = [name for name in names if name != BLEND] + ([BLEND] if BLEND in names else [])
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        fitting = [pool.submit(fit_ours, fold, [name], seeds, args.home) for name in single for fold in folds]
        other = [(name, pool.submit(rival_runs, name, list(folds), seeds)) for name in rivals]
        for done, future in enumerate(fitting, 1):
            future.result()
            sys.stderr.write(f"\rfitted {done} of {len(fitting)} (ranker, fold)")
        theirs = [(name, future.result()) for name, future in other]
        sys.stderr.write("\n")
    systems = [*ours(names, list(folds), seeds, args.home), *(runs for _, runs in theirs if runs)]
    qrels = pl.concat([mq2008.fold(fold)[2].select("qid", "docid", "relevance") for fold in folds])
    found = report(systems, qrels)
    found["skipped"] = [name for name, runs in theirs if runs is None]
    found["training_over_bare_lightgbm"] = overhead(3 if args.quick else 9)
    found["ranknet_fold_1_s"] = ranknet_seconds()
    return {**found, "folds": len(folds), "seeds": seeds, "cores": os.cpu_count(), "targets": TARGETS}


def main() -> int:
    """Run and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 folds, 1 seed, the main rankers and rivals")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rankers", nargs="*", choices=list(RANKERS), metavar="NAME")
    parser.add_argument("--rivals", nargs="*", choices=list(RIVALS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=mq2008.PARTS, help="the first so many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, one thread each")
    parser.add_argument("--home", type=Path, default=Path(".cascade/bench"), help="where fits are kept")
    args = parser.parse_args()
    if not mq2008.FOLDER.is_dir():
        sys.stderr.write(f"needs {mq2008.FOLDER}\n")
        return 2
    args.home = args.home.resolve()
    found = _run(args)
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    for row in found["systems"]:
        figure = row["ndcg_exp_cut_10"]["one"]
        name = row["name"] if row["ours"] else f"({row['name']})"
        print(f"{name:28s} {figure:.4f}  {row['train_s']:7.2f} s  {row['predict_us_per_doc']:7.2f} µs/doc")  # noqa: T201
    below = [f"{row['ours']} < {row['rival']}" for row in found["against_rivals"] if row["significantly_below"]]
    print("significantly below a rival:", ", ".join(below) or "none")  # noqa: T201
    for name in found["skipped"]:
        print(f"skipped, not installed: {name}")  # noqa: T201
    print(f"training over bare LightGBM: {found['training_over_bare_lightgbm']}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
