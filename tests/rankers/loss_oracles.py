"""Every loss as plain Python loops over one slate, straight from its paper: scores and relevance to a number.

None stands for a slate that has nothing to compare, which no mean over slates counts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from rankers import listwise, losses
from rankers.losses import Loss

Oracle = Callable[..., float | None]
THRESHOLDS = (-0.7, 0.1, 0.9, 2.0)


def gain_of(relevance: float, gain: str) -> float:
    return 2**relevance - 1 if gain == "exponential" else relevance


def ranks_of(scores: list[float]) -> list[int]:
    """From 1, equal scores in the order given."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [order.index(i) + 1 for i in range(len(scores))]


def ideal(relevance: list[float], gain: str) -> float:
    return sum(g / math.log2(2 + i) for i, g in enumerate(sorted((gain_of(r, gain) for r in relevance), reverse=True)))


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log_sum(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def pairs_of(relevance: list[float]) -> list[tuple[int, int]]:
    n = range(len(relevance))
    return [(i, j) for i in n for j in n if relevance[i] > relevance[j]]


def pairwise_loss(
    scores: list[float],
    relevance: list[float],
    *,
    cost: Callable[[float], float],
    weighting: str = "none",
    gain: str = "exponential",
) -> float | None:
    """Burges 2005, eq. 3; with weights Burges 2010, section 4: cost of s_i - s_j over pairs with rel_i > rel_j."""
    pairs = pairs_of(relevance)
    if not pairs:
        return None
    if weighting == "none":
        return sum(cost(scores[i] - scores[j]) for i, j in pairs) / len(pairs)
    rank, total = ranks_of(scores), 0.0
    for i, j in pairs:
        swap = (gain_of(relevance[i], gain) - gain_of(relevance[j], gain)) * (
            1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j])
        )
        total += abs(swap) / ideal(relevance, gain) * cost(scores[i] - scores[j])
    return total


def ordinal(scores: list[float], relevance: list[float]) -> float:
    """McCullagh 1980: cross-entropy of P(rel > k) = sigmoid(s - θ_k) against whether it is."""
    total = 0.0
    for s, r in zip(scores, relevance, strict=True):
        for k, threshold in enumerate(THRESHOLDS):
            target = min(max(r - k, 0.0), 1.0)
            total += target * softplus(threshold - s) + (1 - target) * softplus(s - threshold)
    return total / len(THRESHOLDS) / len(scores)


def cross_entropy(target: list[float], scores: list[float]) -> float:
    return -sum(t / sum(target) * (s - log_sum(scores)) for t, s in zip(target, scores, strict=True))


def listnet(scores: list[float], relevance: list[float]) -> float | None:
    """Cao 2007, eq. 5 with top-one probabilities."""
    return cross_entropy([math.exp(r) for r in relevance], scores) if max(relevance) > 0 else None


def softmax(scores: list[float], relevance: list[float]) -> float | None:
    """Bruch 2019, eq. 5."""
    return cross_entropy(relevance, scores) if max(relevance) > 0 else None


def likelihood(scores: list[float], order: list[int], *, position_aware: bool) -> float:
    """-log P(order | scores), place by place (Xia 2008), weighed by 2^(n - i) - 1 (Lan 2014); mean over the places."""
    n = len(order)
    cost = [log_sum([scores[j] for j in order[i:]]) - scores[order[i]] for i in range(n)]
    weight = [2 ** (n - i) - 1 if position_aware else 1 for i in range(1, n + 1)]
    return sum(w * c for w, c in zip(weight, cost, strict=True)) / sum(weight) if sum(weight) else 0.0


def listmle(scores: list[float], relevance: list[float], *, position_aware: bool = False) -> float | None:
    order = sorted(range(len(scores)), key=lambda i: -relevance[i])
    return likelihood(scores, order, position_aware=position_aware) if max(relevance) > 0 else None


def approx_ndcg(
    scores: list[float], relevance: list[float], *, temperature: float = 1.0, gain: str = "exponential"
) -> float | None:
    """Qin 2010: 1 - NDCG at the ranks 1 + Σ_j sigmoid((s_j - s_i) / T)."""
    if max(relevance) <= 0:
        return None
    dcg = 0.0
    for i, r in enumerate(relevance):
        rank = 1 + sum(sigmoid((scores[j] - scores[i]) / temperature) for j in range(len(scores)) if j != i)
        dcg += gain_of(r, gain) / math.log2(1 + rank)
    return 1 - dcg / ideal(relevance, gain)


def neural_ndcg(
    scores: list[float],
    relevance: list[float],
    *,
    temperature: float = 1.0,
    sinkhorn: int = 50,
    gain: str = "exponential",
) -> float | None:
    """Pobrotyn 2021, eq. 9, over NeuralSort (Grover 2019, eq. 5) and Sinkhorn's scaling: columns, then rows."""
    if max(relevance) <= 0:
        return None
    n = range(len(scores))
    table = []
    for place in range(1, len(scores) + 1):
        row = [((len(scores) + 1 - 2 * place) * s - sum(abs(s - t) for t in scores)) / temperature for s in scores]
        table.append([math.exp(v - log_sum(row)) for v in row])
    for _ in range(sinkhorn):
        columns = [sum(table[i][j] for i in n) for j in n]
        table = [[table[i][j] / columns[j] for j in n] for i in n]
        table = [[v / sum(row) for v in row] for row in table]
        if all(abs(sum(table[i][j] for i in n) - 1) < 1e-6 for j in n):
            break
    dcg = sum(table[i][j] * gain_of(relevance[j], gain) / math.log2(2 + i) for i in n for j in n)
    return 1 - dcg / ideal(relevance, gain)


def lambda_loss(
    scores: list[float],
    relevance: list[float],
    *,
    mu: float = 10.0,
    sigma: float = 1.0,
    k: int | None = None,
    gain: str = "exponential",
) -> float | None:
    """Wang 2018, section 5.3, NDCG-Loss2++."""
    if max(relevance) <= 0:
        return None
    rank, total = ranks_of(scores), 0.0
    for i, j in pairs_of(relevance):
        if k is not None and min(rank[i], rank[j]) > k:
            continue
        apart = abs(rank[i] - rank[j])
        rho = abs(1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j]))
        delta = abs(1 / math.log2(1 + apart) - 1 / math.log2(2 + apart))
        gap = (gain_of(relevance[i], gain) - gain_of(relevance[j], gain)) / ideal(relevance, gain)
        total += gap * (rho + mu * delta) * softplus(-sigma * (scores[i] - scores[j])) / math.log(2)
    return total


@dataclass(frozen=True)
class Case:
    """A loss with some of its options, and the same thing as loops; `gain`: whether it takes one."""

    loss: Callable[..., torch.Tensor]
    oracle: Oracle
    gain: bool = False
    within: float = 1e-9

    def both(self, gain: str = "exponential") -> tuple[Loss, Oracle]:
        return (
            (partial(self.loss, gain=gain), partial(self.oracle, gain=gain)) if self.gain else (self.loss, self.oracle)
        )


def _fixed_ordinal() -> losses.Ordinal:
    loss = losses.Ordinal(len(THRESHOLDS) + 1).double()
    loss.thresholds.data = torch.tensor(THRESHOLDS, dtype=torch.float64)
    return loss


def _ranknet(sigma: float = 1.0, weighting: str = "none") -> Case:
    oracle = partial(pairwise_loss, cost=lambda gap: softplus(-sigma * gap), weighting=weighting)
    return Case(partial(losses.ranknet, sigma=sigma, weighting=weighting), oracle, gain=True)


def _hinge(margin: float = 1.0, weighting: str = "none") -> Case:
    oracle = partial(pairwise_loss, cost=lambda gap: max(0.0, margin - gap), weighting=weighting)
    return Case(partial(losses.hinge, margin=margin, weighting=weighting), oracle, gain=True)


def _same(loss: Callable[..., torch.Tensor], oracle: Oracle, within: float = 1e-9, **options: float | None) -> Case:
    return Case(partial(loss, **options), partial(oracle, **options), gain=True, within=within)


def _listmle(position_aware: bool) -> Case:
    loss = partial(listwise.listmle, shuffle_ties=False, position_aware=position_aware)
    return Case(loss, partial(listmle, position_aware=position_aware))


# Slates of a batch share Sinkhorn's rounds, so each is scaled as long as the slowest needs.
_SHARED_ROUNDS = 1e-4
CASES = {
    "ranknet": _ranknet(),
    "ranknet sigma": _ranknet(sigma=2.5),
    "lambdarank": _ranknet(weighting="delta_ndcg"),
    "hinge": _hinge(),
    "hinge wide, weighted": _hinge(margin=3.0, weighting="delta_ndcg"),
    "ordinal": Case(_fixed_ordinal(), ordinal),
    "listnet": Case(listwise.listnet, listnet),
    "softmax": Case(listwise.softmax, softmax),
    "listmle": _listmle(position_aware=False),
    "listmle position-aware": _listmle(position_aware=True),
    "approx_ndcg": _same(listwise.approx_ndcg, approx_ndcg),
    "approx_ndcg hot": _same(listwise.approx_ndcg, approx_ndcg, temperature=4.0),
    "neural_ndcg": _same(listwise.neural_ndcg, neural_ndcg, within=_SHARED_ROUNDS),
    "neural_ndcg hot": _same(listwise.neural_ndcg, neural_ndcg, within=_SHARED_ROUNDS, temperature=5.0, sinkhorn=3),
    "lambda_loss": _same(listwise.lambda_loss, lambda_loss),
    "lambda_loss top 2": _same(listwise.lambda_loss, lambda_loss, mu=3.0, sigma=0.5, k=2),
}


def mean(oracle: Oracle, slates: list[tuple[list[float], list[float]]]) -> float:
    """The mean over the slates that count, 0 where none does."""
    found = [value for scores, relevance in slates if (value := oracle(scores, relevance)) is not None]
    return sum(found) / len(found) if found else 0.0


def padded(
    slates: list[tuple[list[float], list[float]]],
    fill: float = 0.0,
    extra: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """scores, relevance, mask [B, L + extra], `fill` in the cells that hold no document."""
    longest = max(len(scores) for scores, _ in slates) + extra
    scores, relevance = (torch.full((len(slates), longest), fill, dtype=dtype) for _ in range(2))
    mask = torch.zeros(len(slates), longest, dtype=torch.bool)
    for row, (s, r) in enumerate(slates):
        scores[row, : len(s)] = torch.tensor(s, dtype=dtype)
        relevance[row, : len(r)] = torch.tensor(r, dtype=dtype)
        mask[row, : len(s)] = True
    return scores, relevance, mask


def apart(scores: list[float], least: float) -> bool:
    """Whether no two are closer than `least`: away from the kinks of whatever sorts them."""
    return all(b - a >= least for a, b in pairwise(sorted(scores)))
