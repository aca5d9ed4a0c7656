"""What keeping a request log costs one warm online search on the current bundle.

    python -m tests.bench.bench_request_log --home .cascade [--queries 200] [--k 10]

Each query is searched without and with the log, in turns, so that both meet the same machine; `append_p50_ms` is the
time in `RequestLog.append` by itself.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.request_log import Origin, RequestLog, read_log
from pipeline.searcher import Searcher

WARM_UP = 10


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--home", type=Path, default=Path(".cascade"))
    arguments.add_argument("--queries", type=int, default=200)
    arguments.add_argument("--k", type=int, default=10)
    args = arguments.parse_args()
    searcher = Searcher.open(args.home)
    docs = pl.read_parquet(searcher.bundle.path / "docs.parquet")
    words = docs["text"].str.split(" ").list.head(8).list.join(" ").str.strip_chars()
    texts = words.filter(words.str.len_chars() > 10).sample(args.queries + WARM_UP, seed=0, with_replacement=True)
    with tempfile.TemporaryDirectory() as folder:
        log = RequestLog(Path(folder))
        times: dict[str, list[float]] = {"plain": [], "logged": []}
        for text in texts:
            asked = pl.DataFrame({"qid": ["1"], "query": [text]})
            for name, kept in (("plain", None), ("logged", log)):
                start = time.perf_counter()
                searcher.search(asked, k=args.k, log=kept)
                times[name].append(1000 * (time.perf_counter() - start))
        (session,) = read_log(Path(folder))
        size = session.path.stat().st_size / session.requests.height
        alone = _append_alone(log, session.origin, session.requests.row(0, named=True), session.shown)
        log.close()
    figures: dict[str, object] = {"documents": docs.height, "system": searcher.system, "k": args.k}
    for name, milliseconds in times.items():
        figures[f"{name}_p50_ms"], figures[f"{name}_p95_ms"] = np.percentile(milliseconds[WARM_UP:], [50, 95])
    print(json.dumps({**figures, "append_p50_ms": alone, "bytes_a_request": size}))  # noqa: T201


def _append_alone(log: RequestLog, origin: Origin, request: dict[str, Any], shown: pl.DataFrame) -> float:
    """The median milliseconds of appending one request."""
    mine = shown.filter(pl.col("id") == request["id"])
    milliseconds = []
    for _ in range(300):
        start = time.perf_counter()
        query = {"qid": request["qid"], "query": request["query"]}
        log.append(origin, query, {name: request[name] for name in ("k", "depth", "candidates")}, mine)
        milliseconds.append(1000 * (time.perf_counter() - start))
    return float(np.median(milliseconds))


if __name__ == "__main__":
    main()
