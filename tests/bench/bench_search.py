"""Latency of one warm online search on the current bundle, one query at a time.

    python -m tests.bench.bench_search --home .cascade [--queries 200] [--k 10]

Queries are the first words of the bundle's own documents, so any bundle will do.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.searcher import Searcher

WARM_UP = 10


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--home", type=Path, default=Path(".cascade"))
    arguments.add_argument("--queries", type=int, default=200)
    arguments.add_argument("--k", type=int, default=10)
    args = arguments.parse_args()
    start = time.perf_counter()
    searcher = Searcher.open(args.home)
    opened = time.perf_counter() - start
    docs = pl.read_parquet(searcher.bundle.path / "docs.parquet")
    words = docs["text"].str.split(" ").list.head(8).list.join(" ").str.strip_chars()
    texts = words.filter(words.str.len_chars() > 10).sample(args.queries + WARM_UP, seed=0, with_replacement=True)
    milliseconds = []
    for text in texts:
        start = time.perf_counter()
        searcher.search(pl.DataFrame({"qid": ["1"], "query": [text]}), k=args.k)
        milliseconds.append(1000 * (time.perf_counter() - start))
    p50, p95, p99 = np.percentile(milliseconds[WARM_UP:], [50, 95, 99])
    figures = {"documents": docs.height, "system": searcher.system, "queries": args.queries, "k": args.k}
    print(json.dumps({**figures, "open_s": opened, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}))  # noqa: T201


if __name__ == "__main__":
    main()
