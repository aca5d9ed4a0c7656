"""Frames become slates: one order, checked labels, features by name; NDCG by the definition."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankers.slates import Ndcg, Slates, batches, grouping, mask_of, matrix, pad
from retrieval.errors import InputError
from tests.rankers.synthetic import FEATURES, judged, ndcg


def small(relevance=(1, 0, 2), **columns) -> pl.DataFrame:
    frame = pl.DataFrame({"qid": ["a", "b", "a"], "docid": ["x", "y", "z"], "f": [0.5, None, float("nan")]})
    relevant = pl.Series("relevance", relevance)
    frame = frame.with_columns(relevant.cast(pl.Int32) if relevant.dtype.is_integer() else relevant)
    return frame.cast({"f": pl.Float32}).with_columns(**{name: pl.Series(values) for name, values in columns.items()})


def test_rows_of_a_query_are_gathered_in_canonical_order():
    slates = Slates.of(small(relevance=(1, 3, 2)), ["f"], "train")
    assert slates.sizes.tolist() == [2, 1]
    assert slates.relevance.tolist() == [2, 1, 3]  # a: z then x, docid descending; then b
    np.testing.assert_array_equal(slates.x[:, 0], np.float32([np.nan, 0.5, np.nan]))


@settings(deadline=None, max_examples=20)
@given(st.randoms())
def test_the_order_of_rows_changes_nothing(random):
    frame = judged(6, seed=3, depth=5)
    rows = list(range(frame.height))
    random.shuffle(rows)
    one, other = (Slates.of(f, FEATURES, "train") for f in (frame, frame[rows]))
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.relevance, other.relevance)
    np.testing.assert_array_equal(one.sizes, other.sizes)


def test_queries_without_a_relevant_candidate_are_left_out_and_counted(caplog):
    slates = Slates.of(small(relevance=(1, 0, 0)), ["f"], "train")
    assert slates.sizes.tolist() == [2]
    assert "train: 1 of 2 queries have no relevant candidate" in caplog.text
    with pytest.raises(InputError, match="no query has a relevant candidate"):
        Slates.of(small(relevance=(0, 0, 0)), ["f"], "train")


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        ((1, -1, 0), "document 'y' is -1; grades are integers from 0 to 30"),
        ((1, 31, 0), "document 'y' is 31"),
        ((1, None, 0), "1 null values"),
        ((1.0, float("nan"), 0.0), "relevance must be Int32, found Float64"),
        ((1.5, 0.0, 0.0), "relevance must be Int32, found Float64"),
    ],
)
def test_grades_that_lightgbm_would_take_silently_are_refused(relevance, message):
    with pytest.raises(InputError, match=message):
        Slates.of(small(relevance=relevance), ["f"], "train")


def test_longest_query():
    def query(rows: int) -> pl.DataFrame:
        frame = pl.DataFrame({"docid": [str(i) for i in range(rows)]})
        relevance = pl.when(pl.col("docid") == "0").then(1).otherwise(0).cast(pl.Int32)
        return frame.with_columns(qid=pl.lit("q"), relevance=relevance, f=pl.lit(1.0, dtype=pl.Float32))

    assert Slates.of(query(10_000), ["f"], "train").sizes.tolist() == [10_000]
    with pytest.raises(InputError, match="a query has 10001 rows; at most 10000"):
        Slates.of(query(10_001), ["f"], "train")


def test_features_are_taken_by_name():
    frame = judged(2, seed=4)
    shuffled = frame.select(*reversed(frame.columns))
    np.testing.assert_array_equal(matrix(frame, FEATURES, "features"), matrix(shuffled, FEATURES, "features"))
    with pytest.raises(InputError, match=r"features: missing the feature columns dense, length$"):
        matrix(frame.drop("dense", "length"), FEATURES, "features")


def test_infinite_and_wordy_features_are_named():
    with pytest.raises(InputError, match="infinite values in g; a feature is a finite number"):
        matrix(small(g=[1.0, float("-inf"), 0.0]), ["f", "g"], "features")
    with pytest.raises(InputError, match="infinite values in g"):  # finite as Float64, not as Float32
        matrix(small(g=[1.0, 1e39, 0.0]), ["f", "g"], "features")
    with pytest.raises(InputError, match="columns docid must hold numbers"):
        matrix(small(), ["f", "docid"], "features")


def test_a_document_twice_in_a_query_is_refused():
    with pytest.raises(InputError, match="document 'x' appears twice for query 'a'"):
        grouping(small().with_columns(docid=pl.lit("x")), "features")


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(lambda sizes: np.array(sizes))


@given(SIZES)
def test_padding_and_back(sizes):
    rows = np.arange(sizes.sum() * 2, dtype=np.float32).reshape(-1, 2)
    padded, mask = pad(rows, sizes, fill=-1.0), mask_of(sizes)
    assert padded.shape == (len(sizes), sizes.max(), 2)
    assert (padded[~mask] == -1.0).all()
    np.testing.assert_array_equal(padded[mask], rows)


@given(SIZES, st.integers(1, 40))
def test_batches_cover_each_query_once_within_their_cells(sizes, cells):
    rows = np.arange(sizes.sum())
    cuts = list(batches(sizes, cells))
    np.testing.assert_array_equal(np.concatenate([sizes[queries] for queries, _ in cuts]), sizes)
    np.testing.assert_array_equal(np.concatenate([rows[cut] for _, cut in cuts]), rows)
    for queries, cut in cuts:
        assert sizes[queries].sum() == cut.stop - cut.start
        assert len(sizes[queries]) == 1 or len(sizes[queries]) * sizes[queries].max() <= cells


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.sampled_from([1, 3, 10, 50]), st.sampled_from([1, 3, None]))
def test_ndcg_equals_the_definition_ties_included(seed, k, decimals):
    frame = judged(5, seed=seed, depth=7)
    scores = np.random.default_rng(seed).normal(size=frame.height)
    if decimals is not None:
        scores = (scores * decimals).round()  # ties
    order, _ = grouping(frame, "frame")
    found = Ndcg(Slates.of(frame, FEATURES, "frame"), k)(scores[order])
    assert found == pytest.approx(ndcg(frame, scores, k), abs=1e-12)
