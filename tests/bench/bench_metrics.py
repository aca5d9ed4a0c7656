"""Cascade's metrics beside pytrec_eval's, in one run, taking turns, inputs built beforehand for both.

    python -m tests.bench.bench_metrics --queries 10000 --docs 1000 --metric ndcg_cut_10 --repeats 5

Prints a line a repeat, the ratio of the medians, and one JSON object. Exits 1 when the two disagree by more than 1e-9
on any query. Each gets the input that it is made for: a frame with String ids, and dictionaries of dictionaries.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import polars as pl
import pytrec_eval

from retrieval.metrics import per_query

log = logging.getLogger(__name__)
T = TypeVar("T")
Nested = dict[str, dict[str, float]]

TREC_NAMES = {"precision": "P"}


def build(queries: int, docs: int, judged: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A run of `docs` documents a query, in its ranked order, and `judged` grades of 0 to 3 a query, half retrieved."""
    rng = np.random.default_rng(seed)
    pool = pl.Series([f"doc{i:07d}" for i in range(1_000_000)])
    # A stride coprime with the pool gives each query distinct documents without a permutation each.
    rows = (rng.integers(0, len(pool), queries)[:, None] + np.arange(docs + judged) * 7919) % len(pool)
    scores = -np.sort(-rng.normal(20, 5, (queries, docs)).astype(np.float32), axis=1)
    ranked = rng.permuted(rows[:, :docs], axis=1)
    graded = np.concatenate([rows[:, : judged // 2], rows[:, docs : docs + judged - judged // 2]], axis=1)
    qids = pl.Series([f"q{i}" for i in range(queries)])
    run = pl.DataFrame(
        {
            "qid": qids.gather(np.repeat(np.arange(queries), docs)),
            "docid": pool.gather(ranked.ravel()),
            "score": scores.ravel(),
        }
    )
    qrels = pl.DataFrame(
        {
            "qid": qids.gather(np.repeat(np.arange(queries), graded.shape[1])),
            "docid": pool.gather(graded.ravel()),
            "relevance": rng.integers(0, 4, graded.size, dtype=np.int32),
        }
    )
    return run, qrels


def nested(frame: pl.DataFrame, value: str) -> Nested:
    """The frame as pytrec_eval's {qid: {docid: value}}."""
    groups = frame.group_by("qid", maintain_order=True).agg("docid", value)
    return {qid: dict(zip(docids, values, strict=True)) for qid, docids, values in groups.iter_rows()}


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> int:
    """Build, time in turns, compare, report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--docs", type=int, default=1_000, help="retrieved documents a query")
    parser.add_argument("--judged", type=int, default=50, help="judged documents a query")
    parser.add_argument("--metric", default="ndcg_cut_10", help="one that trec_eval has too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    base, _, cutoff = args.metric.rpartition("_")
    theirs_name = f"{TREC_NAMES[base]}_{cutoff}" if base in TREC_NAMES else args.metric
    run, qrels = build(args.queries, args.docs, args.judged, args.seed)
    run_dict, qrels_dict = nested(run, "score"), nested(qrels, "relevance")
    evaluator = pytrec_eval.RelevanceEvaluator(qrels_dict, {theirs_name})

    ours, theirs, apart = [], [], 0.0
    for repeat in range(args.repeats):
        seconds, figures = timed(lambda: per_query(run, qrels, [args.metric]))
        ours.append(seconds)
        seconds, expected = timed(lambda: evaluator.evaluate(run_dict))
        theirs.append(seconds)
        worst = max(abs((value or 0.0) - expected[qid][theirs_name]) for qid, value in figures.iter_rows())
        apart = max(apart, worst)
        log.info("repeat %d: cascade %.3f s, pytrec_eval %.3f s", repeat + 1, ours[-1], theirs[-1])
    ratio = statistics.median(theirs) / statistics.median(ours)
    log.info("%s: cascade takes 1/%.1f of pytrec_eval's time; largest difference %.1e", args.metric, ratio, apart)
    report = {
        "metric": args.metric,
        "queries": args.queries,
        "docs": args.docs,
        "judged": args.judged,
        "cores": len(os.sched_getaffinity(0)),
        "polars_threads": pl.thread_pool_size(),
        "cascade_s": [round(seconds, 4) for seconds in ours],
        "pytrec_eval_s": [round(seconds, 4) for seconds in theirs],
        "ratio_of_medians": round(ratio, 2),
        "largest_difference": apart,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if apart <= 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
