"""Losses against loops over pairs, finite differences, and padding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankers.losses import ranknet

GRADES = st.lists(st.integers(0, 3), min_size=1, max_size=7)


def slow_ranknet(slates: list[tuple[list[float], list[int]]]) -> float:
    """Burges et al. 2005, eq. 3 with target 1, pair by pair; the mean over pairs, then over slates that have some."""
    means = []
    for scores, grades in slates:
        n = range(len(scores))
        costs = [math.log1p(math.exp(scores[j] - scores[i])) for i in n for j in n if grades[i] > grades[j]]
        if costs:
            means.append(sum(costs) / len(costs))
    return sum(means) / len(means) if means else 0.0


def padded(slates, fill=0.0, extra=0):
    longest = max(len(scores) for scores, _ in slates) + extra
    scores = torch.full((len(slates), longest), fill, dtype=torch.float64)
    grades = torch.full((len(slates), longest), fill, dtype=torch.float64)
    mask = torch.zeros(len(slates), longest, dtype=torch.bool)
    for row, (s, g) in enumerate(slates):
        scores[row, : len(s)] = torch.tensor(s, dtype=torch.float64)
        grades[row, : len(s)] = torch.tensor(g, dtype=torch.float64)
        mask[row, : len(s)] = True
    return scores, grades, mask


def test_three_documents_by_hand():
    scores, grades, mask = padded([([1.0, 0.0, 2.0], [1, 0, 0])])
    by_hand = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2  # 0.3133 and 1.3133
    assert ranknet(scores, grades, mask).item() == pytest.approx(by_hand, abs=1e-12)


def test_three_grades_by_hand():
    scores, grades, mask = padded([([0.5, 0.0, -1.0], [0, 1, 2])])
    by_hand = sum(math.log(1 + math.exp(gap)) for gap in (0.5, 1.5, 1.0)) / 3
    assert ranknet(scores, grades, mask).item() == pytest.approx(by_hand, abs=1e-12)


@st.composite
def batches(draw):
    slates = []
    for grades in draw(st.lists(GRADES, min_size=1, max_size=4)):
        scores = draw(st.lists(st.floats(-20, 20), min_size=len(grades), max_size=len(grades)))
        slates.append((scores, grades))
    return slates


@settings(deadline=None)
@given(batches(), st.sampled_from([0.0, 50.0, -50.0]), st.integers(0, 3))
def test_equals_the_loop_over_pairs_whatever_the_padding_holds(slates, fill, extra):
    assert ranknet(*padded(slates, fill, extra)).item() == pytest.approx(slow_ranknet(slates), abs=1e-9)


def test_padding_takes_no_gradient_and_changes_none():
    slates = [([0.3, -0.2, 1.0], [0, 2, 1]), ([0.1, 0.4], [1, 0])]
    gradients = []
    for fill, extra in ((0.0, 0), (9.0, 4)):
        scores, grades, mask = padded(slates, fill, extra)
        scores.requires_grad_()
        (gradient,) = torch.autograd.grad(ranknet(scores, grades, mask), scores)
        assert not gradient[~mask].any()
        gradients.append(gradient[mask])
    torch.testing.assert_close(*gradients)


def test_gradient_equals_finite_differences():
    scores, grades, mask = padded([([0.3, -0.2, 1.0], [0, 2, 1]), ([0.1, 0.4], [1, 0]), ([0.5, 0.5], [1, 1])])
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ranknet(s, grades, mask), scores)


def test_slates_without_an_order_count_for_nothing():
    ordered, flat = ([1.0, 0.0], [0, 1]), ([3.0, 4.0], [1, 1])
    assert ranknet(*padded([ordered, flat])).item() == pytest.approx(ranknet(*padded([ordered])).item())
    scores, grades, mask = padded([flat])
    scores.requires_grad_()
    loss = ranknet(scores, grades, mask)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.item() == 0.0
    assert not gradient.any()


def test_far_apart_scores_stay_finite():
    scores, grades, mask = padded([([-1e4, 1e4], [1, 0])])
    assert ranknet(scores, grades, mask).item() == pytest.approx(2e4)
