"""Normalised features are comparable, bounded and never missing."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rankers.normaliser import CLIP, Normaliser
from retrieval.errors import InputError

RNG = np.random.default_rng(0)


def test_plain_and_heavy_tailed_columns_both_become_standard():
    x = np.stack([RNG.normal(40, 7, 4000), RNG.lognormal(3, 1.5, 4000), -RNG.lognormal(3, 1.5, 4000)], axis=1)
    normaliser = Normaliser.fit(x)
    assert normaliser.log.tolist() == [False, True, True]
    z = normaliser.transform(x)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=1e-3)
    assert (np.argsort(z, axis=0) == np.argsort(x, axis=0)).all()


def test_missing_values_count_as_the_mean_and_do_not_move_it():
    x = np.array([[1.0], [2.0], [3.0], [6.0]])
    holes = np.array([[1.0], [np.nan], [2.0], [3.0], [6.0], [np.nan]])
    whole, holed = Normaliser.fit(x), Normaliser.fit(holes)
    np.testing.assert_allclose([holed.mean, holed.gain], [whole.mean, whole.gain])
    np.testing.assert_array_equal(holed.transform(np.array([[np.nan]])), [[0.0]])


def test_columns_that_never_varied_stay_zero_whatever_comes():
    normaliser = Normaliser.fit(np.array([[5.0, np.nan, 1e9], [5.0, np.nan, 1e9]]))
    np.testing.assert_array_equal(normaliser.transform(np.array([[7.0, 3.0, 1e9 + 64]])), [[0.0, 0.0, 0.0]])


def test_outliers_are_clipped():
    z = Normaliser.fit(RNG.normal(size=(100, 1))).transform(np.array([[1e30], [-1e30]]))
    assert z.ravel().tolist() == [CLIP, -CLIP]


MATRICES = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(-1e30, 1e30) | st.just(np.nan)
)


@given(MATRICES, MATRICES)
def test_any_training_rows_give_finite_bounded_values_for_any_others(train, other):
    z = Normaliser.fit(train).transform(other)
    assert z.dtype == np.float32
    assert np.isfinite(z).all()
    assert np.abs(z).max() <= CLIP


@given(MATRICES)
def test_survives_json_exactly(train):
    normaliser = Normaliser.fit(train)
    stored = Normaliser.from_json(json.loads(json.dumps(normaliser.to_json())))
    np.testing.assert_array_equal(stored.transform(train), normaliser.transform(train))


def quantiles(*columns: list[float]) -> tuple[Normaliser, np.ndarray]:
    x = np.array(columns, dtype=float).T
    return Normaliser.fit(x, "quantile"), x


def test_quantiles_of_distinct_values_are_their_ranks_whatever_the_scale():
    values = np.sort(RNG.normal(size=80))
    for stretched in (values, np.exp(5 * values), values**3):
        normaliser, x = quantiles(stretched)
        ranks = (np.arange(80) + 0.5) / 80
        np.testing.assert_allclose(normaliser.transform(x)[:, 0], (ranks - ranks.mean()) / ranks.std(), atol=1e-5)


def test_equal_values_share_the_middle_of_their_ranks():
    normaliser, x = quantiles([1.0] * 6 + [2.0] * 2 + [9.0] * 2)
    shares = np.array([0.3] * 6 + [0.7] * 2 + [0.9] * 2)  # half of their own, and all below
    np.testing.assert_allclose(normaliser.transform(x)[:, 0], (shares - shares.mean()) / shares.std(), atol=1e-6)


@given(
    hnp.arrays(
        np.float64, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32) | st.integers(-3, 3).map(float)
    ),
    hnp.arrays(np.float64, 20, elements=st.floats(-1e9, 1e9, width=32)),
)
def test_quantiles_keep_the_order_and_their_bounds_beyond_training(train, other):
    normaliser = Normaliser.fit(train[:, None], "quantile")
    both = np.sort(np.concatenate([train, other]))
    z = normaliser.transform(both[:, None])[:, 0]
    assert (np.diff(z) >= 0).all()
    inside = normaliser.transform(train[:, None])[:, 0]
    assert (z.min(), z.max()) == (inside.min(), inside.max())  # beyond what was seen, the nearest that was


def test_quantiles_of_missing_and_constant_columns():
    nan = float("nan")
    normaliser, x = quantiles([1.0, 2.0, nan, 3.0, nan], [4.0] * 5, [nan] * 5)
    z = normaliser.transform(x)
    assert z[[2, 4], 0].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(z[[0, 1, 3], 0], np.array([-1, 0, 1]) * 1.5**0.5, atol=1e-6)
    assert not z[:, 1:].any()
    assert not normaliser.transform(np.array([[nan, 5.0, 5.0]])).any()


@given(MATRICES)
def test_quantiles_survive_json_exactly(train):
    normaliser = Normaliser.fit(train, "quantile")
    stored = Normaliser.from_json(json.loads(json.dumps(normaliser.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(stored.transform(train), normaliser.transform(train))


@pytest.mark.parametrize("kind", ["zscore", "log", "auto", "quantile"])
def test_every_kind_is_standard_on_what_it_was_fitted_on(kind):
    x = np.stack([RNG.normal(40, 7, 3000), RNG.lognormal(1, 0.5, 3000), RNG.integers(0, 3, 3000)], axis=1)
    normaliser = Normaliser.fit(x, kind)
    z = normaliser.transform(x)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.02)  # what is clipped, and what lies between kept quantiles
    np.testing.assert_allclose(z.std(axis=0), 1, atol=0.05)
    assert all(np.corrcoef(a, b)[0, 1] > 0.5 for a, b in zip(z.T, x.T, strict=True))


def test_the_kinds_differ_in_what_they_do_to_a_column():
    skewed = RNG.lognormal(0, 2, (500, 1))
    kinds = {kind: Normaliser.fit(skewed, kind) for kind in ("zscore", "log", "auto", "quantile")}
    assert not kinds["zscore"].log.any()
    assert kinds["log"].log.all()
    assert kinds["auto"].log.all()
    plain = Normaliser.fit(RNG.normal(50, 1, (500, 1)), "log")
    assert plain.log.all()  # asked for, though it gains nothing


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="unknown normalisation 'ranks'; known: auto, zscore, log, quantile"):
        Normaliser.fit(np.zeros((2, 1)), "ranks")
