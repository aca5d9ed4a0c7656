"""The randomisation test against SciPy's permutation test, Holm against its definition, the bootstrap by coverage."""

import math

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import InputError
from retrieval.significance import bootstrap_ci, holm, randomisation_test

# Multiples of 1/8, as precisions are: many patterns then have exactly the observed sum.
EIGHTHS = st.integers(-8, 8).map(lambda eighth: eighth / 8)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def scipys(differences: list[float]) -> float:
    test = scipy.stats.permutation_test(
        (np.array(differences),), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    return float(test.pvalue)


@settings(max_examples=60, deadline=None)
@given(differences=st.lists(EIGHTHS, min_size=2, max_size=9))
def test_exact_equals_scipys(differences: list[float]) -> None:
    assert randomisation_test(differences) == pytest.approx(scipys(differences), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(differences=st.lists(st.floats(-1, 1), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_two_sided_and_blind_to_order_scale_and_ties(differences: list[float], seed: int) -> None:
    p = randomisation_test(differences, samples=500, seed=seed)
    assert 0 < p <= 1
    assert randomisation_test([-d for d in differences], samples=500, seed=seed) == p
    assert randomisation_test([0.0, *differences, 0.0], samples=500, seed=seed) == p
    assert randomisation_test([4 * d for d in differences], samples=500, seed=seed) == p


def test_sampled_agrees_with_exact() -> None:
    """17 differences are sampled, yet few enough (2^17 patterns) for SciPy to enumerate."""
    differences = np.linspace(-0.4, 0.7, 17)
    exact = scipys(list(differences))
    assert 0.01 < exact < 0.5
    standard_error = math.sqrt(exact * (1 - exact) / 100_000)
    assert randomisation_test(differences) == pytest.approx(exact, abs=5 * standard_error)


def test_seeded() -> None:
    differences = np.random.default_rng(0).normal(0.02, 0.3, 200)
    assert randomisation_test(differences, seed=1) == randomisation_test(differences, seed=1)
    assert randomisation_test(differences, seed=1) != randomisation_test(differences, seed=2)
    assert bootstrap_ci(differences, seed=1) == bootstrap_ci(differences, seed=1)
    assert bootstrap_ci(differences, seed=1) != bootstrap_ci(differences, seed=2)


def test_no_difference_is_no_evidence_and_a_constant_one_is_much() -> None:
    assert randomisation_test(np.zeros(50)) == 1
    assert randomisation_test(np.full(10, 0.1)) == 2 / 2**10
    assert randomisation_test(np.full(100, 0.1), samples=999) == 1 / 1000


def test_the_level_holds_under_the_null() -> None:
    rng = np.random.default_rng(5)
    p_values = np.array([randomisation_test(rng.normal(0, 1, 25), samples=499, seed=i) for i in range(1000)])
    # 1,000 draws of a rate of .05 stay within .05 ± 4 standard errors.
    assert abs((p_values <= 0.05).mean() - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 1000)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(p_values=P_VALUES, level=st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    for step, i in enumerate(order):
        if p_values[i] * (len(p_values) - step) > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected


@given(p_values=P_VALUES)
def test_holm_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        assert p <= adjusted <= min(1, p * len(p_values))


def test_bootstrap_agrees_with_scipys_percentile_interval() -> None:
    values = np.random.default_rng(1).beta(0.5, 0.5, 120)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert bootstrap_ci(values) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_bootstrap_covers() -> None:
    rng = np.random.default_rng(7)
    intervals = [bootstrap_ci(rng.normal(0.4, 0.2, 60), level=0.9, samples=400, seed=i) for i in range(500)]
    coverage = np.mean([low <= 0.4 <= high for low, high in intervals])
    assert 0.85 < coverage < 0.94


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-1, 1), min_size=1, max_size=40))
def test_bootstrap_is_ordered_within_the_values_and_widens_with_the_level(values: list[float]) -> None:
    low, high = bootstrap_ci(values, samples=200)
    wide_low, wide_high = bootstrap_ci(values, level=0.99, samples=200)
    assert min(values) - 1e-12 <= wide_low <= low <= high <= wide_high <= max(values) + 1e-12


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [math.nan, 1.0], [math.inf]])
def test_what_is_no_list_of_numbers_is_refused(values: list[float]) -> None:
    for function in (randomisation_test, bootstrap_ci, holm):
        with pytest.raises(InputError, match="needs"):
            function(values)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"between 0 and 1; found 1\.5"):
        holm([0.5, 1.5])
    with pytest.raises(InputError, match="level must lie between 0 and 1"):
        bootstrap_ci([1.0], level=95)
    with pytest.raises(InputError, match="samples must be at least 1"):
        randomisation_test([1.0], samples=0)
