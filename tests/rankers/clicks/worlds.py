"""Small worlds that the tests of this room share: documents with a known attraction, shown in a known order."""

import numpy as np
import polars as pl


def silent(metrics, step) -> None:
    """A training log that keeps nothing."""


def shown(queries: int = 40, depth: int = 10, seed: int = 0, low: float = 0.05, high: float = 0.9) -> pl.DataFrame:
    """SHOWN: `queries` rankings of `depth` documents whose attraction is uniform on [low, high]."""
    rng = np.random.default_rng(seed)
    n = queries * depth
    return pl.DataFrame(
        {
            "qid": np.repeat([f"q{i:03}" for i in range(queries)], depth),
            "docid": [f"d{i:05}" for i in range(n)],
            "position": pl.Series(np.tile(np.arange(1, depth + 1), queries), dtype=pl.Int32),
            "attraction": rng.uniform(low, high, n),
        }
    )


def log_of(*pages: tuple[str, str, str], session: str = "s") -> pl.DataFrame:
    """A LOG of pages (qid, docids as letters, clicks as 0s and 1s), each in a session of its own."""
    rows = [
        (qid, docid, position, click == "1", f"{session}{page}")
        for page, (qid, docids, clicks) in enumerate(pages)
        for position, (docid, click) in enumerate(zip(docids, clicks, strict=True), 1)
    ]
    schema = {"qid": pl.String, "docid": pl.String, "position": pl.Int32, "click": pl.Boolean, "session": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")
