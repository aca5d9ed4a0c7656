"""Losses over padded slates, all `f(scores [B, L], relevance [B, L], mask [B, L]) -> scalar`.

`mask` is True where a slate holds a document; padded cells change nothing, whatever finite values they hold. Each loss
is a mean over the slates that have something to compare, so that a long or much judged query counts as one query.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


def ranknet(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """Mean over pairs with rel_i > rel_j of log(1 + exp(-(s_i - s_j))): Burges et al., ICML 2005, eq. 3 with target 1.

    Pairs of equal relevance carry no target and are left out. Only documents above their slate's lowest grade can win
    a pair; the R of the slate that has most of them are gathered, so the table is [B, R, L], not [B, L, L].
    """
    lowest = relevance.masked_fill(~mask, float("inf")).amin(dim=1, keepdim=True)
    above = (relevance > lowest) & mask
    most = int(above.sum(dim=1).max())
    winners = relevance.masked_fill(~above, float("-inf")).topk(most, dim=1)
    won = winners.values[:, :, None] > relevance[:, None, :]
    pair = won & mask[:, None, :]  # [B, R, L]
    margin = scores.gather(1, winners.indices)[:, :, None] - scores[:, None, :]
    cost = F.softplus(-margin).masked_fill(~pair, 0.0)
    pairs = pair.sum(dim=(1, 2))
    by_slate = cost.sum(dim=(1, 2)) / pairs.clamp(min=1)
    return by_slate.sum() / (pairs > 0).sum().clamp(min=1)
