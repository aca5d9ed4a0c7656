"""The listwise losses by hand on three documents, and in their limits."""

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rankers.listwise import approx_ndcg, lambda_loss, listmle, listnet, neural_ndcg, softmax
from tests.rankers.loss_oracles import apart, ideal, likelihood, padded, ranks_of
from tests.rankers.test_losses import D2, value

IDEAL = 3 + D2
"""The best DCG of the grades 2, 0, 1."""


def test_cross_entropies_by_hand():
    # softmax(s) = 1/7, 2/7, 4/7
    assert value(softmax) == pytest.approx((2 * math.log(7) + math.log(7 / 4)) / 3, abs=1e-12)
    top = math.e**2 * math.log(7) + math.log(7 / 2) + math.e * math.log(7 / 4)
    assert value(listnet) == pytest.approx(top / (math.e**2 + 1 + math.e), abs=1e-12)


def test_listmle_by_hand():
    # The first of three is the grade 2 with odds 1/7, then the grade 1 of the two left with 4/6.
    assert value(listmle) == pytest.approx((math.log(7) + math.log(6 / 4)) / 3, abs=1e-12)
    assert value(listmle, position_aware=True) == pytest.approx((3 * math.log(7) + math.log(6 / 4)) / 4, abs=1e-12)


def test_approx_ndcg_by_hand():
    smooth = {2: 1 + 2 / 3 + 4 / 5, 1: 1 + 1 / 5 + 1 / 3}
    dcg = 3 / math.log2(1 + smooth[2]) + 1 / math.log2(1 + smooth[1])
    assert value(approx_ndcg) == pytest.approx(1 - dcg / IDEAL, abs=1e-12)


def test_neural_ndcg_by_hand():
    # NeuralSort: (1, 8, 16) / 25, (1, 2, 1) / 4 and (16, 8, 1) / 25 over the documents, a row a place.
    gains = (3 + 16) / 25, (3 + 1) / 4, (48 + 1) / 25
    found = value(neural_ndcg, sinkhorn=0)
    assert found == pytest.approx(1 - (gains[0] + D2 * gains[1] + gains[2] / 2) / IDEAL, abs=1e-12)
    columns = [1 / 25 + 1 / 4 + 16 / 25, 8 / 25 + 2 / 4 + 8 / 25]  # the third as the first
    outer = np.array([1 / 25 / columns[0], 8 / 25 / columns[1], 16 / 25 / columns[0]])
    middle = np.array([1 / 4 / columns[0], 2 / 4 / columns[1], 1 / 4 / columns[0]])
    rows = [outer / outer.sum(), middle / middle.sum(), outer[::-1] / outer.sum()]
    dcg = sum(row @ [3, 0, 1] * discount for row, discount in zip(rows, (1, D2, 0.5), strict=True))
    assert value(neural_ndcg, sinkhorn=1) == pytest.approx(1 - dcg / IDEAL, abs=1e-12)


def test_lambda_loss_by_hand():
    near, far = 1 - D2, D2 - 0.5  # δ of neighbours and of the first and the third
    worst = 3 * ((D2 - 0.5) + 10 * near) * math.log2(3)
    middle = 2 * (0.5 + 10 * far) * math.log2(5)
    right = 1 * ((1 - D2) + 10 * near) * math.log2(1.5)
    assert value(lambda_loss) == pytest.approx((worst + middle + right) / IDEAL, abs=1e-12)
    assert value(lambda_loss, k=1) == pytest.approx((middle + right) / IDEAL, abs=1e-12)
    plain = 3 * (D2 - 0.5) * math.log2(3) + 2 * 0.5 * math.log2(5) + (1 - D2) * math.log2(1.5)
    assert value(lambda_loss, mu=0.0) == pytest.approx(plain / IDEAL, abs=1e-12)


@pytest.mark.parametrize("position_aware", [False, True])
def test_shuffled_ties_give_the_mean_over_the_rankings_that_fit(position_aware):
    scores, grades = [0.4, -1.0, 2.0, 0.1], [1, 0, 0, 1]
    fitting = [order for order in permutations(range(4)) if all(grades[a] >= grades[b] for a, b in pairwise(order))]
    assert len(fitting) == 4
    costs = [likelihood(scores, list(order), position_aware=position_aware) for order in fitting]
    many = 40_000  # slates of a batch, each shuffled by itself
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = value(listmle, [(scores, grades)] * many, position_aware=position_aware)
    assert found == pytest.approx(np.mean(costs), abs=4 * np.std(costs) / many**0.5)
    fixed = value(listmle, [(scores, grades)], position_aware=position_aware, shuffle_ties=False)
    assert fixed == pytest.approx(likelihood(scores, [0, 3, 1, 2], position_aware=position_aware), abs=1e-12)


def test_without_ties_there_is_nothing_to_shuffle():
    slates = [([0.4, -1.0, 2.0], [2, 0, 1]), ([0.3, 0.5], [0, 3])]
    assert len({value(listmle, slates) for _ in range(5)}) == 1


ROWS = st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 4)), min_size=2, max_size=8)


@pytest.mark.parametrize("loss", [neural_ndcg, approx_ndcg])
@settings(deadline=None, max_examples=60)
@given(rows=ROWS)
def test_in_the_cold_it_is_what_ndcg_lacks_to_one(loss, rows):
    scores, grades = [s for s, _ in rows], [g for _, g in rows]
    assume(max(grades) > 0 and apart(scores, 0.05))
    ranks = ranks_of(scores)
    dcg = sum((2**grade - 1) / math.log2(1 + rank) for grade, rank in zip(grades, ranks, strict=True))
    found = value(loss, [(scores, grades)], temperature=1e-3)
    assert found == pytest.approx(1 - dcg / ideal(grades, "exponential"), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=3), st.sampled_from([0.3, 1.0, 10.0]))
def test_no_gain_counts_for_more_than_it_is(slates, temperature):
    """A relaxed permutation spreads each gain over places, so its DCG stays within the ideal one.

    As far as it is doubly stochastic: near ties Sinkhorn's scaling is slow to settle.
    """
    batch = [([s for s, _ in rows], [g for _, g in rows]) for rows in slates]
    assert -1e-3 <= value(neural_ndcg, batch, temperature=temperature, sinkhorn=500) <= 1.0


def test_long_slates_do_not_overflow_the_positions_weights():
    n = 3000
    scores, relevance, mask = padded([([0.0] * n, list(range(n)))], dtype=torch.float32)
    found = listmle(scores, relevance, mask, position_aware=True).item()
    weights = np.exp2(-np.arange(1, n + 1, dtype=float))
    expected = (weights * np.log(np.arange(n, 0, -1))).sum() / weights.sum()
    assert found == pytest.approx(expected, rel=1e-4)
