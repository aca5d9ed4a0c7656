"""Scoring networks: normalised slates x [B, L, F] and mask [B, L] to scores [B, L]."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rankers.artifact import Setting
from retrieval.errors import InputError


class Mlp(nn.Module):
    """A linear score plus what a multilayer perceptron adds to it, each document by itself.

    The perceptron's last layer starts at zero: training sets out from a linear model, which is hard to beat when there
    are a few hundred queries, and departs from it only as far as the data pull.
    """

    def __init__(self, features: int, *, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((features, *hidden), hidden, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(dropout)]
        self.deep = nn.Sequential(*layers, _silent(hidden[-1]))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = (self.linear(x) + self.deep(x)).squeeze(-1)
        return scores.masked_fill(~mask, 0.0)


class Attention(nn.Module):
    """A linear score plus what self-attention over the slate adds: each document scored among its rivals.

    A transformer encoder without positions (Pobrotyn et al., "Context-Aware Learning to Rank with Self-Attention",
    2020; layer norm before each part): permuting a slate permutes its scores, and padding is never attended to. Its
    last layer starts at zero, as `Mlp`'s does.
    """

    def __init__(self, features: int, *, width: int, heads: int, blocks: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"attention: width ({width}) must be a multiple of heads ({heads})")
        self.linear = nn.Linear(features, 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.enter = nn.Linear(features, width)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(blocks))
        self.last = nn.Sequential(nn.LayerNorm(width), _silent(width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.enter(x)
        for block in self.blocks:
            hidden = block(hidden, mask)
        scores: Tensor = (self.linear(x) + self.last(hidden)).squeeze(-1)
        return scores.masked_fill(~mask, 0.0)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention: Callable[..., Tensor] = F.scaled_dot_product_attention
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        hidden = hidden + self.dropout(self._attend(self.before_attention(hidden), mask))
        return hidden + self.dropout(self.feed(self.before_feed(hidden)))  # type: ignore[no-any-return]

    def _attend(self, hidden: Tensor, mask: Tensor) -> Tensor:
        b, length, width = hidden.shape
        parts = self.qkv(hidden).view(b, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # each [B, H, L, D]
        # A slate without padding takes the kernel that needs no mask.
        visible = None if bool(mask.all()) else mask[:, None, None, :]
        seen = self.attention(query, key, value, attn_mask=visible)
        return self.merge(seen.transpose(1, 2).reshape(b, length, width))  # type: ignore[no-any-return]


def in_plain_products(network: Attention) -> Attention:
    """A copy of a fitted network that attends by matrix products, which have forward-mode derivatives, to 1e-6.

    (PyTorch's own switch away from its fused kernels is the whole process's: other threads' scores would change.)
    """
    plain = copy.deepcopy(network).eval()
    for block in plain.modules():
        if isinstance(block, _Block):
            block.attention = _attention
    return plain


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(Q K' / √D) V over [B, H, L, D], where `attn_mask` [B, 1, 1, L] says what is seen."""
    weights = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        weights = weights.masked_fill(~attn_mask, float("-inf"))
    return weights.softmax(dim=-1) @ value


def _silent(width: int) -> nn.Linear:
    """A last layer that adds nothing until it has learned to."""
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return last


def build(features: int, hyperparameters: Mapping[str, Setting]) -> nn.Module:
    """The network that `hyperparameters` name, for `features` inputs, with fresh weights."""
    match hyperparameters:
        case {"network": "mlp", "hidden": [*hidden], "dropout": float(dropout)}:
            return Mlp(features, hidden=[int(width) for width in hidden], dropout=dropout)
        case {
            "network": "attention",
            "width": int(width),
            "heads": int(heads),
            "blocks": int(blocks),
            "dropout": float(dropout),
        }:
            return Attention(features, width=width, heads=heads, blocks=blocks, dropout=dropout)
    known = "mlp (hidden, dropout), attention (width, heads, blocks, dropout)"
    raise InputError(f"no network is described by {dict(hyperparameters)}; known: {known}")


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of its weights, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}


def padded(rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n, ...] of consecutive slates as [B, L, ...] with zeros after, and their mask [B, L]."""
    mask = torch.arange(int(sizes.max()), device=rows.device) < sizes.to(rows.device)[:, None]
    slates = rows.new_zeros((*mask.shape, *rows.shape[1:]))
    slates[mask] = rows
    return slates, mask
