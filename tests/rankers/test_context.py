"""How a document stands in its slate, by the definition; and trees that read it."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankers.artifact import load_ranker
from rankers.context import folded, widened
from rankers.trees import TreeRanker, fit_trees
from retrieval.errors import InputError
from tests.rankers.synthetic import FEATURES, judged, ndcg

KINDS = pytest.mark.parametrize("context", ["zscore", "rank"])
VALUES = st.integers(-4, 4).map(float) | st.floats(-1e3, 1e3, width=32, allow_subnormal=False) | st.just(float("nan"))
SLATES = st.lists(st.lists(VALUES, min_size=1, max_size=8), min_size=1, max_size=5)


def by_definition(slate: list[float], context: str) -> list[float]:
    values = np.array([v for v in slate if v == v], dtype=np.float64)
    if context == "rank":
        return [((values < v).sum() + (values == v).sum() / 2) / len(values) if v == v else v for v in slate]
    mean, std = (values.mean(), values.std()) if len(values) else (0.0, 0.0)
    alike = std <= 1e-6 * np.abs(values).max(initial=0)
    return [v if v != v else 0.0 if alike else (v - mean) / std for v in slate]


@KINDS
@given(slates=SLATES)
def test_equals_the_definition_slate_by_slate(context, slates):
    x = np.float32([v for slate in slates for v in slate])[:, None]
    spreads = [np.ptp([v for v in slate if v == v] or [0.0]) for slate in slates]
    if context == "zscore" and any(0 < spread < 1e-2 for spread in spreads):
        return  # between rounding and varying, which the bound on rounding decides
    found = widened(x, np.array([len(slate) for slate in slates]), context)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :1], x)
    expected = [v for slate in slates for v in by_definition([float(np.float32(v)) for v in slate], context)]
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-4)


def test_none_adds_nothing_and_no_rows_stay_none():
    x = np.ones((3, 2), dtype=np.float32)
    np.testing.assert_array_equal(widened(x, np.array([3]), "none"), x)
    assert widened(x[:0], np.array([], dtype=int), "rank").shape == (0, 4)


def test_what_a_standing_adds_counts_as_its_features():
    assert folded(np.array([[1.0, 2.0, 10.0, 20.0, 5.0]]), 2).tolist() == [[11.0, 22.0, 5.0]]
    assert folded(np.array([[1.0, 2.0, 5.0]]), 2).tolist() == [[1.0, 2.0, 5.0]]


def fit(context: str, train: pl.DataFrame, valid: pl.DataFrame, name: str = "regression", **options) -> TreeRanker:
    shared = {"feature_names": FEATURES, "log": lambda metrics, step: None, "rounds": 60, "min_data_in_leaf": 20}
    return fit_trees(name, train, valid, context=context, **{**shared, **options})


def shifted(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Each query's bm25 on a level of its own, as long and rare queries have: alone it says little."""
    qids = frame["qid"].unique().sort()
    level = pl.DataFrame({"qid": qids, "level": np.random.default_rng(seed).normal(0, 40, len(qids))})
    found = frame.join(level, on="qid", maintain_order="left")
    return found.with_columns(bm25=(pl.col("bm25") + pl.col("level")).cast(pl.Float32)).drop("level")


@KINDS
@pytest.mark.parametrize("name", ["regression", "lambdamart"])
def test_trees_that_read_it_are_rankers_like_any_other(context, name, tmp_path):
    train, valid, unseen = (shifted(judged(n, seed=s), s) for n, s in ((100, 1), (40, 2), (60, 3)))
    ranker = fit(context, train, valid, name, offset_feature="bm25")
    ranker.save(tmp_path)
    loaded = load_ranker(tmp_path)
    scores = loaded.score(unseen)
    assert ndcg(unseen, scores) > ndcg(unseen, fit("none", train, valid, name).score(unseen))
    np.testing.assert_array_equal(scores, ranker.score(unseen))
    rows = np.random.default_rng(0).permutation(unseen.height)
    np.testing.assert_array_equal(loaded.score(unseen.select(*reversed(unseen.columns))[rows]), scores[rows])
    for _, query in list(unseen.with_row_index("row").group_by("qid"))[:5]:
        np.testing.assert_array_equal(loaded.score(query), scores[query["row"].to_numpy()])
    reasons = loaded.explain(unseen)
    assert reasons.shape == (unseen.height, len(FEATURES) + 1)
    np.testing.assert_allclose(reasons.sum(axis=1), scores, atol=1e-4)
    assert loaded.score(unseen.clear()).shape == (0,)
    assert loaded.explain(unseen.clear()).shape == (0, len(FEATURES) + 1)


def test_an_unknown_context_is_refused():
    frame = judged(5, seed=1)
    with pytest.raises(InputError, match="unknown context 'ranks'; known: none, zscore, rank"):
        fit("ranks", frame, frame)
