"""Normalised features are comparable, bounded and never missing."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rankers.normaliser import CLIP, Normaliser

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
