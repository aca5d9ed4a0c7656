"""Scoring networks: normalised slates x [B, L, F] and mask [B, L] to scores [B, L]."""

from collections.abc import Mapping, Sequence

import torch
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
        last = nn.Linear(hidden[-1], 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.deep = nn.Sequential(*layers, last)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = (self.linear(x) + self.deep(x)).squeeze(-1)
        return scores.masked_fill(~mask, 0.0)


def build(features: int, hyperparameters: Mapping[str, Setting]) -> nn.Module:
    """The network that `hyperparameters` name, for `features` inputs, with fresh weights."""
    match hyperparameters:
        case {"network": "mlp", "hidden": [*hidden], "dropout": float(dropout)}:
            return Mlp(features, hidden=hidden, dropout=dropout)
    raise InputError(f"no network is described by {dict(hyperparameters)}; known: mlp (hidden, dropout)")


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of its weights."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def padded(rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n, ...] of consecutive slates as [B, L, ...] with zeros after, and their mask [B, L]."""
    mask = torch.arange(int(sizes.max())) < sizes[:, None]
    slates = rows.new_zeros((*mask.shape, *rows.shape[1:]))
    slates[mask] = rows
    return slates, mask
