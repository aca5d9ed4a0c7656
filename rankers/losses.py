"""Pointwise and pairwise losses over padded slates, all `f(scores [B, L], relevance [B, L], mask [B, L]) -> scalar`.

`mask` is True where a slate holds a document; padded cells change nothing, whatever finite values they hold. Relevance
is a grade, or any finite number of at least 0 where labels were derived from clicks. Each loss is a mean over the
slates that have something to compare, so that a long or much judged query counts as one query. The listwise losses
are in `rankers.listwise`.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
Weighting: TypeAlias = Literal["none", "delta_ndcg"]
Gain: TypeAlias = Literal["exponential", "linear"]
"""2^rel - 1 for grades, or the label itself, as for labels derived from clicks."""


def ranknet(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor,
    *,
    weighting: Weighting = "none",
    sigma: float = 1.0,
    gain: Gain = "exponential",
) -> Tensor:
    """Pairwise logistic: for rel_i > rel_j, log(1 + exp(-σ(s_i - s_j))). Burges et al., ICML 2005, eq. 3, target 1.

    Its gradient is the lambda form of Burges, MSR-TR-2010-82, eq. 3: dC/ds_i = Σ_j λ_ij over the pairs that i wins less
    those that it loses, λ_ij = -σ w_ij / (1 + exp(σ(s_i - s_j))).

    weighting: "none" takes the mean over the slate's pairs; "delta_ndcg" is LambdaRank (ibid., section 4): each pair is
    weighted by the |ΔNDCG| (no cutoff) of swapping the two in the current ranking, and summed.
    """
    pairs = _Pairs.of(scores, relevance, mask)
    return pairs.mean(F.softplus(-sigma * pairs.margin), weighting, gain)


def hinge(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor,
    *,
    weighting: Weighting = "none",
    margin: float = 1.0,
    gain: Gain = "exponential",
) -> Tensor:
    """Pairwise hinge: for rel_i > rel_j, max(0, margin - (s_i - s_j)). Joachims, KDD 2002 (RankSVM); see `ranknet`."""
    pairs = _Pairs.of(scores, relevance, mask)
    return pairs.mean(F.relu(margin - pairs.margin), weighting, gain)


class Ordinal(nn.Module):
    """Cumulative logits (proportional odds, McCullagh 1980): P(rel > k) = sigmoid(s - θ_k), a document by itself.

    The thresholds θ [grades - 1] are learned with the network and needed for training only: a ranking needs s alone.
    A soft label counts between two grades, P(rel > k) aims at rel - k within [0, 1]. Mean over the grades and the
    documents of a slate, then over slates.
    """

    def __init__(self, grades: int) -> None:
        super().__init__()
        self.thresholds = nn.Parameter(torch.linspace(-1.0, 1.0, max(grades - 1, 1)))

    def forward(self, scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
        steps = torch.arange(len(self.thresholds), device=scores.device)
        target = (relevance[..., None] - steps).clamp(0.0, 1.0).to(scores.dtype)
        cost = F.binary_cross_entropy_with_logits(scores[..., None] - self.thresholds, target, reduction="none")
        by_document = cost.mean(dim=-1).masked_fill(~mask, 0.0)
        return (by_document.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


class _Pairs:
    """All pairs (winner i, loser j) of each slate with rel_i > rel_j, in one table [B, R, L].

    Pairs of equal relevance carry no target and are left out. Only documents above their slate's lowest grade can win
    a pair; the R of the slate that has most of them are gathered, so the table is [B, R, L], not [B, L, L].

    margin: s_i - s_j.
    """

    def __init__(self, scores: Tensor, relevance: Tensor, mask: Tensor, winners: Tensor, pair: Tensor) -> None:
        self.scores, self.relevance, self.mask, self.winners, self.pair = scores, relevance, mask, winners, pair
        self.margin = scores.gather(1, winners)[:, :, None] - scores[:, None, :]

    @classmethod
    def of(cls, scores: Tensor, relevance: Tensor, mask: Tensor) -> "_Pairs":
        lowest = relevance.masked_fill(~mask, float("inf")).amin(dim=1, keepdim=True)
        above = (relevance > lowest) & mask
        most = int(above.sum(dim=1).max())
        winners = relevance.masked_fill(~above, float("-inf")).topk(most, dim=1)
        pair = (winners.values[:, :, None] > relevance[:, None, :]) & mask[:, None, :]
        return cls(scores, relevance, mask, winners.indices, pair)

    def mean(self, cost: Tensor, weighting: Weighting, gain: Gain) -> Tensor:
        """The mean over slates that have a pair of the mean, or with weights the sum, of `cost` over their pairs."""
        pairs = self.pair.sum(dim=(1, 2))
        if weighting == "delta_ndcg":
            by_slate = (cost * self._swap(gain)).masked_fill(~self.pair, 0.0).sum(dim=(1, 2))
        else:
            by_slate = cost.masked_fill(~self.pair, 0.0).sum(dim=(1, 2)) / pairs.clamp(min=1)
        return by_slate.sum() / (pairs > 0).sum().clamp(min=1)

    def _swap(self, kind: Gain) -> Tensor:
        """|ΔNDCG| [B, R, L] of exchanging the two of each pair in the current ranking."""
        gain = gains(self.relevance.to(self.scores.dtype), self.mask, kind)
        discount = 1.0 / torch.log2(1.0 + ranks(self.scores, self.mask))
        value, worth = gain.gather(1, self.winners), discount.gather(1, self.winners)
        swap = (value[:, :, None] - gain[:, None, :]).abs() * (worth[:, :, None] - discount[:, None, :]).abs()
        return swap / ideal_dcg(gain).clamp(min=1e-12)[:, None, None]


def gains(relevance: Tensor, mask: Tensor, gain: Gain) -> Tensor:
    """What each document is worth [B, L], 0 where there is none."""
    worth = torch.exp2(relevance) - 1.0 if gain == "exponential" else relevance
    return worth.masked_fill(~mask, 0.0)


def ranks(scores: Tensor, mask: Tensor) -> Tensor:
    """The rank from 1 of each document in the current ranking [B, L]; equal scores in the order given, padding last."""
    order = scores.detach().masked_fill(~mask, float("-inf")).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype).expand_as(scores)
    return torch.empty_like(places.contiguous()).scatter_(1, order, places)


def ideal_dcg(gain: Tensor) -> Tensor:
    """The DCG [B] of ranking gains [B, L] best first."""
    places = torch.arange(1, gain.shape[1] + 1, device=gain.device, dtype=gain.dtype)
    return (gain.sort(dim=1, descending=True).values / torch.log2(1.0 + places)).sum(dim=1)
