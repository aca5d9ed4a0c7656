"""Latency of scoring one query's candidates, and of explaining a hundred of them.

    python -m tests.bench.bench_ltr_scoring [--ranker FOLDER …] [--candidates 1000] [--features 60] [--repeats 50]

Given rankers (folders that `load_ranker` reads) they are timed on random values of their own features; without, each
of RANKERS is first trained at the defaults of `cascade ltr` for small data. Prints one JSON object: milliseconds at the
50th and 95th percentile, a row a ranker, and of a slate of a hundred its explanation in seconds.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.build import fit_ranker, load_ranker
from pipeline.ltr_settings import defaults
from rankers.protocol import Ranker

RANKERS = ("lambdamart", "regression", "ranknet", "softmax+attention")
QUERIES, DEPTH = 500, 20
WARM_UP = 5
EXPLAINED = 100


def candidates(names: list[str], queries: int, depth: int, seed: int) -> pl.DataFrame:
    """Judged FEATURES: grades 0 to 2 that two features and their interaction explain, one value in twenty missing."""
    rng = np.random.default_rng(seed)
    n = queries * depth
    x = rng.lognormal(size=(n, len(names))).astype(np.float32)
    latent = np.log(x[:, 0]) + np.log(x[:, 1]) * (x[:, -1] > 1) + rng.normal(0, 0.7, n)
    x[rng.random(x.shape) < 0.05] = np.nan
    keys = {
        "qid": np.repeat([f"q{q}" for q in range(queries)], depth),
        "docid": [f"d{i}" for i in range(n)],
        "relevance": pl.Series(np.clip(np.floor(latent), 0, 2).astype(np.int32)),
    }
    return pl.DataFrame({**keys, **dict(zip(names, x.T, strict=True))})


def trained(name: str, features: int) -> Ranker:
    names = [f"f{i}" for i in range(1, features + 1)]
    train, valid = (candidates(names, count, DEPTH, seed) for count, seed in ((QUERIES, 0), (QUERIES // 4, 1)))
    settings = defaults(name, train.height)
    return fit_ranker(name, train, valid, seed=0, log=lambda metrics, step: None, settings=settings)


def timed(ranker: Ranker, rows: int, repeats: int) -> dict[str, float | str | int]:
    frame = candidates(list(ranker.feature_names), 1, rows, seed=2).drop("relevance")
    milliseconds = []
    for _ in range(WARM_UP + repeats):
        start = time.perf_counter()
        ranker.score(frame)
        milliseconds.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(milliseconds[WARM_UP:], [50, 95])
    start = time.perf_counter()
    ranker.explain(frame.head(EXPLAINED))
    return {
        "ranker": ranker.name,
        "features": len(ranker.feature_names),
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "explain_100_s": round(time.perf_counter() - start, 3),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--ranker", type=Path, nargs="*", default=[])
    arguments.add_argument("--candidates", type=int, default=1000)
    arguments.add_argument("--features", type=int, default=60)
    arguments.add_argument("--repeats", type=int, default=50)
    args = arguments.parse_args()
    rankers = [load_ranker(folder) for folder in args.ranker] or [trained(name, args.features) for name in RANKERS]
    rows = [timed(ranker, args.candidates, args.repeats) for ranker in rankers]
    figures = {"candidates": args.candidates, "repeats": args.repeats, "cores": os.cpu_count()}
    print(json.dumps({**figures, "rankers": rows}))  # noqa: T201


if __name__ == "__main__":
    main()
