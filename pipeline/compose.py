"""The ranking path, stage by stage: the same functions for a batch of thousands and for one online query.

queries → retrieve (BM25, dense) → fuse → candidates → features → ranker
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from retrieval.frames import RUN, check, ranked

RETRIEVERS = ("bm25", "dense")
FUSED = "fused"


def document_texts(docs: pl.DataFrame) -> list[str]:
    """What the encoder reads of each document: title, then text."""
    return docs.select(pl.concat_str("title", "text", separator=" ").str.strip_chars()).to_series().to_list()


def candidates(runs: Mapping[str, pl.DataFrame], number: int) -> pl.DataFrame:
    """The `number` best fused documents of every query with what each stage said of them.

    runs: RUNs named `bm25`, `dense` and `fused`. Returns qid, docid and `S_score: Float32`, `S_rank: Int32` for each
    stage S, null where that stage did not return the document.
    """
    best = check(runs[FUSED], RUN, "fused run").filter(pl.col("rank") <= number).select("qid", "docid")
    for stage in (*RETRIEVERS, FUSED):
        said = runs[stage].select(
            "qid", "docid", pl.col("score").alias(f"{stage}_score"), pl.col("rank").alias(f"{stage}_rank")
        )
        best = best.join(said, on=["qid", "docid"], how="left", maintain_order="left")
    return best


def reranked(features: pl.DataFrame, scores: NDArray[np.floating]) -> pl.DataFrame:
    """A RUN of a FEATURES frame's rows by the ranker's `scores` [rows]."""
    return ranked(features.select("qid", "docid", score=pl.Series(scores, dtype=pl.Float32)))
