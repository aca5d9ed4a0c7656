from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, rankdata

from retrieval import pairwise
from retrieval.errors import InputError
from retrieval.significance import bootstrap_ci, randomisation_test


def figures(queries: int, systems: int, seed: int = 0, ties: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(0.5, 0.2, (queries, 1)) + rng.normal(0, 0.1, (queries, systems)), 0, 1)
    x[rng.random(queries) < ties] = 0.25
    return x + np.linspace(0, 0.02, systems) * (x != 0.25)


@pytest.mark.parametrize("queries", [3, 12, 16])
def test_few_queries_give_the_exact_test_of_each_pair(queries):
    x = figures(queries, 5)
    p = pairwise.p_values(x)
    for one, other in combinations(range(5), 2):
        assert p[one, other] == pytest.approx(randomisation_test(x[:, one] - x[:, other]), abs=1e-12)
    assert (p == p.T).all()
    assert (np.diag(p) == 1).all()


def test_many_queries_give_the_test_of_each_pair_to_its_sampling_error():
    x = figures(300, 6)
    p = pairwise.p_values(x)
    for one, other in combinations(range(6), 2):
        alone = randomisation_test(x[:, one] - x[:, other], seed=9)
        # Two samples of 100,000: five standard errors of their difference.
        assert abs(p[one, other] - alone) < 5 * np.sqrt(2 * max(alone * (1 - alone), 1e-5) / 100_000)
    assert len({round(value, 6) for value in p[np.triu_indices(6, 1)]}) > 10


def test_a_pair_that_differs_on_few_of_many_queries_is_exact():
    x = figures(200, 3)
    x[:, 1] = x[:, 0]
    x[:7, 1] += [0.1, 0.2, -0.05, 0.3, 0.1, 0.2, 0.1]
    x[:, 2] = x[:, 0]
    p = pairwise.p_values(x)
    assert p[0, 1] == randomisation_test(x[:, 1] - x[:, 0])
    assert p[0, 2] == 1


def test_the_level_holds_under_the_null_hypothesis():
    rng = np.random.default_rng(5)
    tests = [pairwise.p_values(rng.normal(size=(60, 2)), samples=2000, seed=run)[0, 1] for run in range(400)]
    # 5 % of 400 is 20, with a standard deviation of 4.4.
    assert 8 <= sum(p <= 0.05 for p in tests) <= 34


@pytest.mark.parametrize("queries", [1, 40, 3000])
def test_the_shared_bootstrap_is_bootstrap_cis(queries):
    x = figures(queries, 3)
    low, high = pairwise.interval(pairwise.resampled_means(x))
    for column in range(3):
        assert (low[column], high[column]) == pytest.approx(bootstrap_ci(x[:, column]), abs=1e-12)


def test_ranks_share_ties_and_put_the_largest_first():
    x = np.array([[0.5, 0.7, 0.5 + 1e-15], [0.1, 0.1, 0.1], [0.3, 0.2, 0.1]])
    assert pairwise.ranks(x).tolist() == [[2.5, 1, 2.5], [2, 2, 2], [1, 2, 3]]


@settings(deadline=None)
@given(st.integers(3, 30), st.integers(3, 6), st.integers(0, 1000))
def test_friedman_is_scipys(queries, systems, seed):
    x = np.random.default_rng(seed).integers(0, 4, (queries, systems)).astype(float)
    ranks = rankdata(-x, axis=1)
    found = pairwise.friedman(ranks)
    if (ranks == (systems + 1) / 2).all():
        assert found == (0, 1)
        return
    expected = friedmanchisquare(*x.T)
    assert found == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9, abs=1e-12)


@given(st.integers(1, 7).flatmap(lambda n: st.lists(st.booleans(), min_size=n * n, max_size=n * n)))
def test_cliques_are_the_maximal_sets_in_which_all_are_alike(bits):
    n = int(len(bits) ** 0.5)
    alike = np.array(bits).reshape(n, n)
    alike = np.triu(alike, 1) | np.triu(alike, 1).T | np.eye(n, dtype=bool)
    whole = [
        set(group)
        for size in range(2, n + 1)
        for group in combinations(range(n), size)
        if all(alike[one, other] for one, other in combinations(group, 2))
    ]
    maximal = sorted(sorted(group) for group in whole if not any(group < other for other in whole))
    assert pairwise.cliques(alike) == maximal


@pytest.mark.parametrize("x", [np.empty((0, 2)), np.ones(3), np.array([[np.nan, 1.0]]), np.array([[np.inf, 1.0]])])
def test_figures_that_are_no_table_of_numbers_are_refused(x):
    with pytest.raises(InputError, match="figures"):
        pairwise.p_values(x)
