"""The pointwise and pairwise losses by hand, and RankNet's gradient as the lambdas of its paper."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankers.losses import Ordinal, hinge, ranknet
from tests.rankers.loss_oracles import ideal, padded, pairs_of, ranks_of

LN2 = math.log(2)
SLATE = ([0.0, LN2, 2 * LN2], [2, 0, 1])
"""Ranked third, second, first, from which the numbers below are worked out: exp(s_i - s_j) is a power of two."""
D2 = 1 / math.log2(3)
"""The discount of rank 2; those of 1 and 3 are 1 and 1/2."""


def value(loss, slates=(SLATE,), **options) -> float:
    return loss(*padded(list(slates)), **options).item()


def test_ranknet_by_hand():
    assert value(ranknet) == pytest.approx((math.log(3) + math.log(5) + math.log(1.5)) / 3, abs=1e-12)
    assert value(ranknet, sigma=2.0) == pytest.approx((math.log(5) + math.log(17) + math.log(1.25)) / 3, abs=1e-12)


def test_lambdarank_by_hand():
    swaps = 3 * (D2 - 0.5) * math.log(3) + 2 * 0.5 * math.log(5) + 1 * (1 - D2) * math.log(1.5)
    assert value(ranknet, weighting="delta_ndcg") == pytest.approx(swaps / (3 + D2), abs=1e-12)
    linear = 2 * (D2 - 0.5) * math.log(3) + 1 * 0.5 * math.log(5) + 1 * (1 - D2) * math.log(1.5)
    found = value(ranknet, weighting="delta_ndcg", gain="linear")
    assert found == pytest.approx(linear / (2 + D2), abs=1e-12)


def test_hinge_by_hand():
    assert value(hinge) == pytest.approx(((1 + LN2) + (1 + 2 * LN2) + (1 - LN2)) / 3, abs=1e-12)
    assert value(hinge, margin=0.5) == pytest.approx(((0.5 + LN2) + (0.5 + 2 * LN2) + 0) / 3, abs=1e-12)


def test_ordinal_by_hand():
    loss = Ordinal(3).double()
    loss.thresholds.data = torch.tensor([0.0, LN2], dtype=torch.float64)
    # P(rel > 0), P(rel > 1): of the grade 2 1/2, 1/3; of the grade 0 2/3, 1/2; of the grade 1 4/5, 2/3.
    by_hand = math.log(2) + math.log(3) + math.log(3) + math.log(2) - math.log(4 / 5) + math.log(3)
    assert value(loss) == pytest.approx(by_hand / 6, abs=1e-12)


def test_ordinal_learns_its_thresholds_by_exact_gradients():
    loss = Ordinal(4).double()
    scores, relevance, mask = padded([([0.3, -0.2, 1.1], [0, 3, 1]), ([0.1, 0.4], [2, 0])])

    def of(thresholds: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(loss, {"thresholds": thresholds}, (scores, relevance, mask))

    thresholds = loss.thresholds.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(of, (thresholds, scores.requires_grad_()))


def test_ordinal_finds_the_odds_of_each_grade():
    """Without scores, the thresholds that fit best are the logits of the shares above each grade."""
    grades = [0] * 5 + [1] * 3 + [2] * 2
    scores, relevance, mask = padded([([0.0] * 10, grades)])
    loss = Ordinal(3).double()
    optimiser = torch.optim.LBFGS(loss.parameters(), max_iter=100)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        found = loss(scores, relevance, mask)
        found.backward()
        return found

    optimiser.step(closure)
    logits = [-math.log(share / (1 - share)) for share in (0.5, 0.2)]
    assert loss.thresholds.tolist() == pytest.approx(logits, abs=1e-4)


SLATES = st.lists(st.tuples(st.floats(-20, 20), st.integers(0, 4)), min_size=2, max_size=9)


@pytest.mark.parametrize("weighting", ["none", "delta_ndcg"])
@settings(deadline=None, max_examples=60)
@given(rows=SLATES, sigma=st.sampled_from([0.5, 1.0, 3.0]))
def test_ranknets_gradient_is_the_lambda_form(weighting, rows, sigma):
    """Burges 2010, eq. 3: λ_ij = -σ w_ij / (1 + exp(σ(s_i - s_j))), added for the winner, taken from the loser."""
    s, r = [score for score, _ in rows], [grade for _, grade in rows]
    pairs, rank = pairs_of(r), ranks_of(s)
    lambdas = np.zeros(len(rows))
    for i, j in pairs:
        weight = 1 / len(pairs)
        if weighting == "delta_ndcg":
            swap = (2 ** r[i] - 2 ** r[j]) * (1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j]))
            weight = abs(swap) / ideal(r, "exponential")
        force = -sigma * weight / (1 + math.exp(sigma * (s[i] - s[j])))
        lambdas[i] += force
        lambdas[j] -= force
    scores, relevance, mask = padded([(s, r)], fill=7.0, extra=2)
    scores.requires_grad_()
    (gradient,) = torch.autograd.grad(ranknet(scores, relevance, mask, weighting=weighting, sigma=sigma), scores)
    # Within what torch rounds off softplus beyond 20.
    np.testing.assert_allclose(gradient[0, : len(rows)].numpy(), lambdas, rtol=1e-8, atol=2e-8)


def test_far_apart_scores_cost_their_distance():
    assert value(ranknet, [([-1e4, 1e4], [1, 0])]) == pytest.approx(2e4)
