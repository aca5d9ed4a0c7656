"""From an array of scores a query to a RUN."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from retrieval.frames import SCORED, ranked


def top_rows(scores: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """The rows of the `depth` highest scores and of all that tie with the last of them, in row order: int64 [≥ depth].

    Ties are kept because only `ranked`, which knows the docids, may break them.
    """
    if depth >= len(scores):
        return np.arange(len(scores))
    threshold = np.partition(scores, len(scores) - depth)[len(scores) - depth]
    return np.flatnonzero(scores >= threshold)


def as_run(
    qids: pl.Series,
    docids: pl.Series,
    found: Sequence[tuple[NDArray[np.integer], NDArray[np.float32]]],
    depth: int,
) -> pl.DataFrame:
    """A RUN from each query's (document rows, scores); `found` is aligned with `qids`, rows index `docids`."""
    if not found:
        return ranked(pl.DataFrame(schema=dict(SCORED)))
    lengths = [len(rows) for rows, _ in found]
    scored = pl.DataFrame(
        {
            "qid": qids.gather(np.repeat(np.arange(len(qids)), lengths)),
            "docid": docids.gather(np.concatenate([rows for rows, _ in found])),
            "score": np.concatenate([scores for _, scores in found]).astype(np.float32),
        }
    )
    return ranked(scored, depth)
