"""The one representation of data in Cascade: polars frames with fixed schemas.

A batch of queries is a frame, and one online query is a frame of one row. Extra (metadata) columns are welcome
everywhere and pass through untouched.
"""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import polars as pl

from retrieval.errors import InputError

Schema: TypeAlias = Mapping[str, type[pl.DataType]]

QUERIES: Schema = {"qid": pl.String, "query": pl.String}
DOCS: Schema = {"docid": pl.String, "title": pl.String, "text": pl.String}
QRELS: Schema = {"qid": pl.String, "docid": pl.String, "relevance": pl.Int32}
SCORED: Schema = {"qid": pl.String, "docid": pl.String, "score": pl.Float32}
RUN: Schema = {**SCORED, "rank": pl.Int32}
PAIRS: Schema = {"qid": pl.String, "docid": pl.String}


def check(frame: pl.DataFrame, schema: Schema, name: str) -> pl.DataFrame:
    """Return `frame` when it has every column of `schema` with its type and no null in them.

    Raises InputError naming `name`, the columns needed and those found.
    """
    missing = [column for column in schema if column not in frame.columns]
    if missing:
        raise InputError(f"{name}: needs the columns {', '.join(schema)}; found {', '.join(frame.columns) or 'none'}")
    for column, dtype in schema.items():
        if frame.schema[column] != dtype:
            raise InputError(f"{name}: column {column} must be {dtype.__name__}, found {frame.schema[column]}")
        if frame[column].null_count():
            raise InputError(f"{name}: column {column} has {frame[column].null_count()} null values")
    return frame


def ranked(scored: pl.DataFrame, depth: int | None = None) -> pl.DataFrame:
    """Rank `scored` (qid, docid, score) into a RUN: the only sort in Cascade.

    Score descending, ties by docid descending (trec_eval's rule), ranks from 1, at most `depth` rows a query; extra
    columns are kept. Queries stay in the order in which they first appear.

    Raises InputError for a NaN score and for a (qid, docid) that appears twice.
    """
    check(scored, SCORED, "scores to rank")
    if scored["score"].is_nan().any():
        row = scored.filter(pl.col("score").is_nan()).row(0, named=True)
        raise InputError(f"the score of query {row['qid']!r}, document {row['docid']!r} is NaN; scores must be numbers")
    # One hash a pair decides at once when nothing repeats; only equal hashes are worth comparing in full.
    hashes = scored.select((pl.col("qid").hash(1) ^ pl.col("docid").hash(2)).n_unique()).item()
    if hashes < scored.height and (twice := scored.select("qid", "docid").is_duplicated()).any():
        row = scored.filter(twice).row(0, named=True)
        raise InputError(f"document {row['docid']!r} appears twice for query {row['qid']!r}")
    blocks = scored["qid"].rle()
    together = blocks.struct.field("value").is_unique().all()
    first_seen = pl.col("qid").rle_id() if together else pl.col("_row").min().over("qid")
    # Eager, and ranks from the blocks' lengths: for the one query of an online search a lazy plan and a window
    # function would cost several times what the sort does.
    ordered = (
        scored.with_row_index("_row")
        .with_columns(_query=first_seen)
        .sort("_query", "score", "docid", descending=[False, True, True])
    )
    lengths = ordered["_query"].rle().struct.field("len").to_numpy()
    starts = np.cumsum(lengths) - lengths
    ranks = np.arange(1, ordered.height + 1) - np.repeat(starts, lengths)
    run = ordered.drop("_row", "_query").with_columns(rank=pl.Series(ranks, dtype=pl.Int32))
    return run if depth is None else run.filter(pl.col("rank") <= depth)
