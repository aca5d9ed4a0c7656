"""A network as a Ranker: normalise, score slate by slate, explain by integrated gradients."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import safetensors.torch
import torch
from torch import Tensor, nn

from rankers import networks
from rankers.artifact import Artifact, Setting, write
from rankers.normaliser import Normaliser
from rankers.protocol import Family, Floats
from rankers.slates import Ints, batches, grouping, matrix
from retrieval.threads import one_thread

BATCH_CELLS = 100_000
ONE_SLATE = 1
"""Cells that no second slate fits in."""
PATH_STEPS = 32
"""Gauss-Legendre nodes on the path from the baseline: sums match scores to 1e-3 and far better on these small nets."""


@dataclass(frozen=True)
class NetworkRanker:
    """A fitted network, its normaliser and the columns that it reads; see rankers.protocol.Ranker."""

    name: str
    family: Family
    feature_names: tuple[str, ...]
    hyperparameters: Mapping[str, Setting]
    normaliser: Normaliser
    network: nn.Module

    @classmethod
    def of(cls, artifact: Artifact) -> "NetworkRanker":
        """Rebuild from a verified artifact."""
        network = networks.build(len(artifact.feature_names), artifact.hyperparameters)
        network.load_state_dict(safetensors.torch.load(artifact.model))
        return cls(
            artifact.name,
            artifact.family,
            artifact.feature_names,
            artifact.hyperparameters,
            Normaliser.from_json(artifact.normaliser),
            network.eval(),
        )

    def save(self, folder: Path) -> None:
        """Write ranker.json and model.safetensors into `folder`."""
        write(
            Artifact(
                name=self.name,
                family=self.family,
                kind="network",
                feature_names=self.feature_names,
                hyperparameters=self.hyperparameters,
                model=safetensors.torch.save(networks.state_of(self.network)),
                normaliser=self.normaliser.to_json(),
            ),
            folder,
        )

    def score(self, features: pl.DataFrame) -> Floats:
        """Score each row, float32 [n]; see Ranker.score.

        Slate by slate: in a batch, a slate's neighbours change its scores in the last bits (up to 1e-6, of three rows
        in ten with attention), and an online search, which has one slate, could not come to what offline judging saw.
        """
        z, order, sizes = self._slates(features)
        scores = np.empty(features.height, dtype=np.float32)
        scores[order] = predict(self.network, z, sizes, cells=ONE_SLATE)
        return scores

    def explain(self, features: pl.DataFrame) -> Floats:
        """Integrated gradients (Sundararajan et al., ICML 2017), float64 [n, F + 1], the base value last.

        The baseline is 0 after normalisation, a document whose every feature is the training mean (or missing); the
        base value is its score. A feature's contribution is its distance from the mean times the gradient averaged
        along the straight line between the two.
        """
        z, order, sizes = self._slates(features)
        network = copy.deepcopy(self.network).double()
        rows = torch.from_numpy(z).double()
        reasons = np.empty((features.height, len(self.feature_names) + 1))
        with one_thread():
            for queries, cut in batches(sizes, BATCH_CELLS):
                x, mask = networks.padded(rows[cut], torch.from_numpy(sizes[queries]))
                reasons[order[cut]] = torch.cat(_integrated_gradients(network, x, mask), dim=-1)[mask].numpy()
        return reasons

    def _slates(self, features: pl.DataFrame) -> tuple[Floats, Ints, Ints]:
        """Normalised rows [n, F] in canonical order, that order [n] and the rows a query [Q]."""
        x = matrix(features, self.feature_names, "features")
        order, sizes = grouping(features, "features")
        return self.normaliser.transform(x[order]), order, sizes


def predict(network: nn.Module, z: Floats, sizes: Ints, *, cells: int = BATCH_CELLS) -> Floats:
    """Scores float32 [n] of normalised rows z [n, F] in canonical order, `sizes` [Q] rows a query.

    cells: a bound on the padded cells of a batch, which holds one query at least.
    """
    scores = np.empty(len(z), dtype=np.float32)
    rows = torch.from_numpy(z)
    device = next(network.parameters()).device
    with torch.inference_mode(), one_thread():
        for queries, cut in batches(sizes, cells):
            x, mask = networks.padded(rows[cut].to(device), torch.from_numpy(sizes[queries]))
            scores[cut] = network(x, mask)[mask].cpu().numpy()
    return scores


def _integrated_gradients(network: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions [B, L, F] and base values [B, L, 1] of x [B, L, F] in float64."""
    nodes, weights = np.polynomial.legendre.leggauss(PATH_STEPS)
    gradient = torch.zeros_like(x)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        point = (x * node).requires_grad_()
        (slope,) = torch.autograd.grad(network(point, mask).sum(), point)
        gradient += weight * slope
    with torch.no_grad():
        base = network(torch.zeros_like(x), mask)
    return x * gradient, base[:, :, None]
