"""Listwise losses over padded slates, all `f(scores [B, L], relevance [B, L], mask [B, L]) -> scalar`.

The conventions are those of `rankers.losses`: padding changes nothing, and each loss is a mean over the slates in which
something is relevant.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from rankers.losses import Gain, gains, ideal_dcg, ranks

LOWEST = -1e9
"""Stands for minus infinity where a gradient flows: infinities would make it NaN."""


def listnet(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the top-one distributions softmax(rel) and softmax(s). ListNet: Cao et al., ICML 2007, eq. 5."""
    target = relevance.to(scores.dtype).masked_fill(~mask, LOWEST).softmax(dim=1)
    return _mean(-(target * _log_softmax(scores, mask)).sum(dim=1), relevance, mask)


def softmax(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """Softmax cross-entropy, -Σ_i rel_i/Σrel log softmax(s)_i. Bruch et al., ICTIR 2019, eq. 5: a bound on NDCG."""
    relevant = relevance.to(scores.dtype).masked_fill(~mask, 0.0)
    target = relevant / relevant.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return _mean(-(target * _log_softmax(scores, mask)).sum(dim=1), relevance, mask)


def listmle(
    scores: Tensor, relevance: Tensor, mask: Tensor, *, position_aware: bool = False, shuffle_ties: bool = True
) -> Tensor:
    """-log of the Plackett-Luce likelihood of a ranking by relevance: Xia et al., ICML 2008. Mean over its places.

    The ranking is any that puts higher grades first: documents of one grade stand in a fresh random order each time
    (torch's random state), or in the order given without `shuffle_ties`. position_aware: place i weighs 2^(n - i) - 1
    of the n in the slate (p-ListMLE: Lan et al., UAI 2014), scaled to sum to n.
    """
    keys = relevance.to(scores.dtype).masked_fill(~mask, LOWEST)
    if shuffle_ties:
        mixed = torch.rand(scores.shape, device=scores.device).argsort(dim=1)
        order = mixed.gather(1, keys.gather(1, mixed).argsort(dim=1, descending=True, stable=True))
    else:
        order = keys.argsort(dim=1, descending=True, stable=True)
    there = mask.gather(1, order)
    chosen = scores.masked_fill(~mask, LOWEST).gather(1, order)
    remaining = chosen.flip(1).logcumsumexp(dim=1).flip(1)  # [B, L]: over the documents not placed yet
    cost = (remaining - chosen).masked_fill(~there, 0.0)
    count = mask.sum(dim=1, keepdim=True).clamp(min=1).to(scores.dtype)
    if position_aware:
        place = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
        # 2^(n - i) - 1 over 2^n, so that long slates do not overflow; the scale falls out below.
        weight = (torch.exp2(-place) - torch.exp2(-count)).masked_fill(~there, 0.0)
        cost = cost * weight * count / weight.sum(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    return _mean(cost.sum(dim=1) / count[:, 0], relevance, mask)


def approx_ndcg(
    scores: Tensor, relevance: Tensor, mask: Tensor, *, temperature: float = 1.0, gain: Gain = "exponential"
) -> Tensor:
    """1 - NDCG with smooth ranks, 1 + Σ_{j≠i} sigmoid((s_j - s_i) / T). ApproxNDCG: Qin et al., Inf. Retr. 2010."""
    gap = (scores[:, None, :] - scores[:, :, None]) / temperature  # [B, i, j]
    other = mask[:, None, :] & ~torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    smooth = 1.0 + torch.sigmoid(gap).masked_fill(~other, 0.0).sum(dim=2)
    worth = gains(relevance.to(scores.dtype), mask, gain)
    dcg = (worth / torch.log2(1.0 + smooth)).sum(dim=1)
    return _mean(1.0 - dcg / ideal_dcg(worth).clamp(min=1e-12), relevance, mask)


def neural_ndcg(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    sinkhorn: int = 50,
    gain: Gain = "exponential",
) -> Tensor:
    """1 - NDCG of the gains sorted by a relaxed permutation. NeuralNDCG: Pobrotyn and Białobrzeski, 2021, eq. 9.

    The relaxation is NeuralSort (Grover et al., ICLR 2019, eq. 5), made doubly stochastic by at most `sinkhorn` rounds
    of Sinkhorn scaling, so that no gain counts for more than it is.
    """
    permutation = _sinkhorn(_neural_sort(scores, mask, temperature), mask, sinkhorn)
    worth = gains(relevance.to(scores.dtype), mask, gain)
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    dcg = ((permutation @ worth[:, :, None])[:, :, 0] / torch.log2(1.0 + places)).sum(dim=1)
    return _mean(1.0 - dcg / ideal_dcg(worth).clamp(min=1e-12), relevance, mask)


def lambda_loss(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor,
    *,
    mu: float = 10.0,
    sigma: float = 1.0,
    k: int | None = None,
    gain: Gain = "exponential",
) -> Tensor:
    """LambdaLoss with NDCG-Loss2++: Wang et al., CIKM 2018, section 5.3; pairs in the top k where k is given.

    Σ over rel_i > rel_j of |G_i - G_j| (ρ_ij + μ δ_ij) log2(1 + exp(-σ(s_i - s_j))), with G = gain / ideal DCG,
    D(r) = log2(1 + r), ρ_ij = |1/D(r_i) - 1/D(r_j)| and δ_ij = |1/D(|r_i - r_j|) - 1/D(|r_i - r_j| + 1)|.
    """
    rank = ranks(scores, mask)
    worth = gains(relevance.to(scores.dtype), mask, gain)
    normal = worth / ideal_dcg(worth).clamp(min=1e-12)[:, None]
    won = relevance[:, :, None] > relevance[:, None, :]
    pair = won & mask[:, :, None] & mask[:, None, :]
    if k is not None:
        pair = pair & (torch.minimum(rank[:, :, None], rank[:, None, :]) <= k)
    apart = (rank[:, :, None] - rank[:, None, :]).abs().clamp(min=1.0)
    rho = (1.0 / torch.log2(1.0 + rank[:, :, None]) - 1.0 / torch.log2(1.0 + rank[:, None, :])).abs()
    delta = (1.0 / torch.log2(1.0 + apart) - 1.0 / torch.log2(2.0 + apart)).abs()
    weight = (normal[:, :, None] - normal[:, None, :]).abs() * (rho + mu * delta)
    cost = F.softplus(-sigma * (scores[:, :, None] - scores[:, None, :])) / math.log(2.0)
    return _mean((cost * weight).masked_fill(~pair, 0.0).sum(dim=(1, 2)), relevance, mask)


def _log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, LOWEST).log_softmax(dim=1).masked_fill(~mask, 0.0)


def _mean(by_slate: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """The mean of [B] over the slates in which something is relevant; 0 where there is none."""
    counts = ((relevance > 0) & mask).any(dim=1)
    return by_slate.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)


def _neural_sort(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Relaxed permutations [B, place, document] whose rows sum to 1; places beyond the slate hold the padding."""
    apart = (scores[:, :, None] - scores[:, None, :]).abs().masked_fill(~mask[:, None, :], 0.0)
    spread = apart.sum(dim=2)  # [B, L]: Σ_k |s_i - s_k|
    count = mask.sum(dim=1)[:, None].to(scores.dtype)
    place = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    scale = count + 1.0 - 2.0 * place  # [B, place]
    logits = (scale[:, :, None] * scores[:, None, :] - spread[:, None, :]) / temperature
    logits = logits.masked_fill(~mask[:, None, :], LOWEST)
    # A place that no document can take must not pull any there.
    return logits.softmax(dim=2) * mask_places(mask)[:, :, None]


def mask_places(mask: Tensor) -> Tensor:
    """Which places from 1 of a slate exist [B, L]: as many as it has documents."""
    return torch.arange(mask.shape[1], device=mask.device) < mask.sum(dim=1)[:, None]


def _sinkhorn(matrix: Tensor, mask: Tensor, rounds: int) -> Tensor:
    """Scale rows and columns in turn until both sum to 1 within 1e-6, or `rounds` are over."""
    # Padding sums to 0 and is divided by 1: a tiny number instead would make its gradient explode, round by round.
    outside = ~mask[:, None, :], ~mask_places(mask)[:, :, None]
    for _ in range(rounds):
        matrix = matrix / matrix.sum(dim=1, keepdim=True).masked_fill(outside[0], 1.0).clamp(min=1e-10)
        matrix = matrix / matrix.sum(dim=2, keepdim=True).masked_fill(outside[1], 1.0).clamp(min=1e-10)
        settled = (matrix.sum(dim=1) - 1.0).masked_fill(~mask, 0.0).abs().max()
        if settled.item() < 1e-6:
            break
    return matrix
