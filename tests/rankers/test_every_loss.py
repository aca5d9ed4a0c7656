"""What holds of every loss: the paper's formula as loops, exact gradients, and padding that is not there."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.rankers.loss_oracles import CASES, Case, apart, mean, padded

LISTS = [name for name in CASES if name not in ("ordinal",)]
"""Ordinal looks at a document by itself: one of a grade is one to learn from, whatever else the slate holds."""
SLATES = [([0.3, -0.2, 1.1], [0, 2, 1]), ([0.15, 0.42, -1.2, 2.0], [1, 0, 3, 0]), ([0.7, -0.6], [0, 4])]


def slates_of(labels: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[list[float], list[float]]]]:
    document = st.tuples(st.floats(-20, 20), labels)
    slate = st.lists(document, min_size=1, max_size=7).map(lambda rows: ([s for s, _ in rows], [r for _, r in rows]))
    return st.lists(slate, min_size=1, max_size=4)


GRADED = slates_of(st.integers(0, 4))
SOFT = slates_of(st.just(0.0) | st.floats(0.001, 4.0))


def value_and_gradient(case: Case, scores: Tensor, relevance: Tensor, mask: Tensor) -> tuple[float, Tensor]:
    scores = scores.clone().requires_grad_()
    value = case.loss(scores, relevance, mask)
    (gradient,) = torch.autograd.grad(value, scores)
    return value.item(), gradient


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=60)
@given(GRADED, st.sampled_from([0.0, 50.0, -50.0, 1e4]), st.integers(0, 3))
def test_equals_the_loops_whatever_the_padding_holds(name, slates, fill, extra):
    loss, oracle = CASES[name].both()
    found = loss(*padded(slates, fill, extra)).item()
    assert found == pytest.approx(mean(oracle, slates), abs=CASES[name].within, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=40)
@given(SOFT)
def test_soft_labels_count_by_their_worth(name, slates):
    loss, oracle = CASES[name].both(gain="linear")
    found = loss(*padded(slates)).item()
    assert found == pytest.approx(mean(oracle, slates), abs=CASES[name].within, rel=1e-9)


@pytest.mark.parametrize("gain", ["exponential", "linear"])
@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_finite_differences(name, gain):
    loss, _ = CASES[name].both(gain)
    scores, relevance, mask = padded(SLATES)
    assert torch.autograd.gradcheck(lambda s: loss(s, relevance, mask), scores.requires_grad_())


@pytest.mark.parametrize("name", CASES)
def test_padding_takes_no_gradient_and_changes_none(name):
    found = []
    for fill, extra in ((0.0, 0), (9.0, 4), (-1e4, 1)):
        scores, relevance, mask = padded(SLATES, fill, extra)
        value, gradient = value_and_gradient(CASES[name], scores, relevance, mask)
        assert not gradient[~mask].any()
        found.append((value, gradient[mask]))
    for value, gradient in found[1:]:
        assert value == pytest.approx(found[0][0], abs=1e-12)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=30)
@given(GRADED, st.randoms(use_true_random=False))
def test_the_order_of_a_slates_documents_changes_nothing(name, slates, random):
    """Equal scores apart, which the losses that rank put in the order given; ListMLE's ties of grade too."""
    assume(all(apart(scores, 1e-6) for scores, _ in slates))
    if name.startswith("listmle"):
        slates = [(scores, [float(i) for i in range(len(scores))]) for scores, _ in slates]
    scores, relevance, mask = padded(slates)
    order = torch.arange(mask.shape[1]).repeat(len(slates), 1)
    for row, (documents, _) in enumerate(slates):
        mixed = list(range(len(documents)))
        random.shuffle(mixed)
        order[row, : len(mixed)] = torch.tensor(mixed)
    value, gradient = value_and_gradient(CASES[name], scores, relevance, mask)
    other, moved = value_and_gradient(CASES[name], scores.gather(1, order), relevance.gather(1, order), mask)
    assert other == pytest.approx(value, abs=1e-9, rel=1e-9)
    torch.testing.assert_close(moved, gradient.gather(1, order), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slates_with_nothing_to_compare_count_for_nothing(name, dtype):
    blank = [([3.0, 4.0, -1.0], [0, 0, 0]), ([0.5], [0])]
    loss = CASES[name].loss
    alone, among = (loss(*padded(slates, dtype=dtype)).item() for slates in (SLATES, [*blank, *SLATES]))
    assert among == pytest.approx(alone, rel=1e-5)
    value, gradient = value_and_gradient(CASES[name], *padded(blank, dtype=dtype))
    assert value == 0.0
    assert not gradient.any()  # and no NaN, which would be true


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_document_alone_teaches_nothing(name, dtype):
    value, gradient = value_and_gradient(CASES[name], *padded([([2.0], [3])], dtype=dtype))
    assert value == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_apart_scores_stay_finite(name, dtype):
    slates = [([-1e4, 1e4, 3.0, 0.0], [4, 0, 1, 0]), ([1e4, -1e4], [0, 1])]
    value, gradient = value_and_gradient(CASES[name], *padded(slates, dtype=dtype))
    assert math.isfinite(value)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_following_the_gradient_puts_the_best_first(name):
    scores, relevance, mask = padded(SLATES)
    scores.requires_grad_()
    optimiser = torch.optim.Adam([scores], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        CASES[name].loss(scores, relevance, mask).backward()
        optimiser.step()
    for found, grades, there in zip(scores.detach(), relevance, mask, strict=True):
        order = found[there].argsort(descending=True)
        assert grades[there][order[0]] == grades[there].max()
