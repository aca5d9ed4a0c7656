"""From FEATURES frames to arrays: a slate is the candidates of one query.

Rows are put in one canonical order (qid ascending, docid descending), whatever order they came in. A stable sort by
score then breaks ties as trec_eval does, and shuffling a training frame changes nothing in what is learned from it.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from rankers.protocol import Floats
from retrieval.errors import InputError
from retrieval.frames import PAIRS, QRELS, Schema, check

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.integer]

MAX_GRADE = 30
"""LightGBM's highest label: its gains are 2^grade - 1."""
MAX_ROWS = 10_000
"""LightGBM's longest query."""
SOFT_QRELS: Schema = {**PAIRS, "relevance": pl.Float32}


@dataclass(frozen=True)
class Slates:
    """Judged candidates in canonical order: the rows of a query are contiguous.

    x: float32 [n, F], NaN where missing; relevance: int32 [n], or float32 where labels are soft; sizes: int64 [Q], the
    rows of each query, summing to n.
    """

    x: Floats
    relevance: Ints | Floats
    sizes: Ints

    @classmethod
    def of(cls, frame: pl.DataFrame, feature_names: Sequence[str], name: str, *, soft: bool = False) -> "Slates":
        """Take the judged FEATURES `frame` apart, called `name` in messages.

        soft: `relevance` is Float32, any finite number of at least 0, as labels derived from clicks are.

        A query whose candidates are all irrelevant says nothing about order: no pair to compare, no NDCG to win; its
        zeros would only teach a regression that what these queries look like is irrelevant. Such queries are dropped
        with one warning that counts them. (Judging, unlike training, keeps them: see retrieval.metrics.)

        Raises InputError for missing or infinite features, a grade that is not an integer from 0 to 30, a document
        twice in a query, a query of more than 10,000 rows, and when nothing relevant is left.
        """
        check(frame, SOFT_QRELS if soft else QRELS, name)
        _check_labels(frame, name, soft)
        order, sizes = grouping(frame, name)
        relevance = frame["relevance"].to_numpy()[order]
        relevant = np.maximum.reduceat(relevance, np.cumsum(sizes) - sizes) > 0 if len(sizes) else np.zeros(0, bool)
        if not relevant.any():
            raise InputError(f"{name}: no query has a relevant candidate; at least one is needed to learn from")
        if dropped := int((~relevant).sum()):
            log.warning("%s: %d of %d queries have no relevant candidate and are left out", name, dropped, len(sizes))
        kept = np.repeat(relevant, sizes)
        sizes = sizes[relevant]
        if sizes.max() > MAX_ROWS:
            raise InputError(f"{name}: a query has {sizes.max()} rows; at most {MAX_ROWS} can be learned from")
        return cls(matrix(frame, feature_names, name, order[kept]), relevance=relevance[kept], sizes=sizes)


def _check_labels(frame: pl.DataFrame, name: str, soft: bool) -> None:
    label = pl.col("relevance")
    wrong = frame.filter(~(label.is_finite() & (label >= 0) if soft else label.is_between(0, MAX_GRADE)))
    if wrong.height:
        row = wrong.row(0, named=True)
        right = "soft labels are finite and at least 0" if soft else f"grades are integers from 0 to {MAX_GRADE}"
        raise InputError(
            f"{name}: the relevance of query {row['qid']!r}, document {row['docid']!r} is {row['relevance']}; {right}"
        )


def matrix(frame: pl.DataFrame, feature_names: Sequence[str], name: str, order: Ints | None = None) -> Floats:
    """The named columns of `frame` as float32 [n, F] in that order, null as NaN; its rows by `order` where given.

    Filled column by column: beside the frame there is never more than the matrix itself. Raises InputError naming the
    columns that are missing, not numbers, or infinite.
    """
    there = set(frame.columns)
    if missing := [column for column in feature_names if column not in there]:
        raise InputError(f"{name}: missing the feature columns {', '.join(missing)}")
    schema = frame.schema
    if wrong := [column for column in feature_names if not schema[column].is_numeric()]:
        raise InputError(f"{name}: the feature columns {', '.join(wrong)} must hold numbers (Float32)")
    x = np.empty((frame.height if order is None else len(order), len(feature_names)), dtype=np.float32)
    for place, column in enumerate(feature_names):
        series = frame.get_column(column).cast(pl.Float32)
        values = (series.fill_null(float("nan")) if series.null_count() else series).to_numpy()
        x[:, place] = values if order is None else values[order]
    infinite = np.isinf(x).any(axis=0)
    if infinite.any():
        which = ", ".join(np.array(feature_names)[infinite])
        raise InputError(f"{name}: infinite values in {which}; a feature is a finite number, or NaN where missing")
    return x


def grouping(frame: pl.DataFrame, name: str) -> tuple[Ints, Ints]:
    """The canonical order of `frame`'s rows, int64 [n], and the rows of each query in that order, int64 [Q].

    Raises InputError when a (qid, docid) appears twice.
    """
    keys = check(frame, PAIRS, name).select("qid", "docid").with_row_index("row")
    if keys["qid"].n_unique() == 1:  # a search's one query is sorted five times as fast without its qid
        keys = keys.sort("docid", descending=True)
    else:
        keys = keys.sort("qid", "docid", descending=[False, True])
    qid, docid = keys["qid"], keys["docid"]
    twice = (qid == qid.shift(1)) & (docid == docid.shift(1))
    if twice.any():
        row = keys.filter(twice).row(0, named=True)
        raise InputError(f"{name}: document {row['docid']!r} appears twice for query {row['qid']!r}")
    return keys["row"].to_numpy().astype(np.int64), qid.rle().struct.field("len").to_numpy().astype(np.int64)


def mask_of(sizes: Ints) -> npt.NDArray[np.bool_]:
    """Where padded slates hold a row: bool [Q, L], L the longest of `sizes` [Q]."""
    longest = int(sizes.max()) if len(sizes) else 0
    return np.arange(longest) < np.asarray(sizes)[:, None]


def pad(values: Floats | Ints, sizes: Ints, fill: float = 0.0) -> Floats:
    """Rows [n, ...] in canonical order as slates [Q, L, ...] of the rows' own type, `fill` where there is no row."""
    mask = mask_of(sizes)
    padded: Floats = np.full((*mask.shape, *values.shape[1:]), fill, dtype=values.dtype)
    padded[mask] = values
    return padded


def batches(sizes: Ints, cells: int) -> Iterator[tuple[slice, slice]]:
    """Cut queries into runs of at most `cells` padded cells (or one query): slices over queries and over rows."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    start, longest = 0, 0
    for query, size in enumerate(sizes):
        longest = max(longest, int(size))
        if query > start and longest * (query + 1 - start) > cells:
            yield slice(start, query), slice(int(ends[start]), int(ends[query]))
            start, longest = query, int(size)
    if start < len(sizes):
        yield slice(start, len(sizes)), slice(int(ends[start]), int(ends[-1]))


class Ndcg:
    """NDCG of slates that stay the same while their scores change: what early stopping watches.

    Gain 2^relevance - 1 (soft labels: the label itself), log2 discount, float32 scores, ties by docid descending:
    LightGBM's own metric, and over binary labels trec_eval's. The ideal ranks the candidates alone, so this is not
    comparable with a leaderboard's, which knows every judgement.
    """

    def __init__(self, slates: Slates, k: int = 10) -> None:
        """`slates`: as `Slates.of` makes them, so every query has a relevant candidate; `k`: the cutoff."""
        self._sizes = slates.sizes
        self._mask = mask_of(slates.sizes)
        relevance = slates.relevance.astype(np.float64)
        gain = relevance if np.issubdtype(slates.relevance.dtype, np.floating) else np.exp2(relevance) - 1
        self._gain = pad(gain, slates.sizes)
        self._discount = 1.0 / np.log2(np.arange(2, min(k, self._gain.shape[1]) + 2))
        self._ideal = self._dcg(np.argsort(-self._gain, axis=1, kind="stable"))

    def __call__(self, scores: Floats) -> float:
        """The mean over queries for `scores` [n] in canonical order."""
        padded = np.full(self._mask.shape, np.inf, dtype=np.float32)
        padded[self._mask] = -np.asarray(scores, dtype=np.float32)
        return float(np.mean(self._dcg(np.argsort(padded, axis=1, kind="stable")) / self._ideal))

    def _dcg(self, order: Ints) -> Floats:
        top: Floats = np.take_along_axis(self._gain, order[:, : len(self._discount)], axis=1)
        dcg: Floats = top @ self._discount
        return dcg
