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
ALONE_STEPS = 32
"""Nodes on the path from the baseline for a network of smooth units: rows sum to their scores to far below 1e-3."""
FEWEST_STEPS, MOST_STEPS = 16, 512
COMPLETE, FLOAT32 = 3e-4, 1e-5
"""How far a slate's contributions may be from summing to its scores: at most, or of scores beyond 30, as a share."""
PATH_CELLS = 1_000_000
"""Bounds the attention weights a head that are held at once."""


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

        The baseline is 0 after normalisation, a slate whose documents have the training mean of every feature (or miss
        it); the base value is its score. A contribution is the integral of score by feature along the straight line
        between the two. Where the network reads the whole slate, the slate moves along that line as one, and what a
        feature adds to a document's score is what its values add in the document and in its rivals: explain what was
        scored, then pick out rows.
        """
        z, order, sizes = self._slates(features)
        reasons = np.empty((features.height, len(self.feature_names) + 1))
        with one_thread():
            if isinstance(self.network, networks.Attention):
                network = networks.in_plain_products(self.network)
                for _, cut in batches(sizes, ONE_SLATE):
                    reasons[order[cut]] = _among_rivals(network, torch.from_numpy(z[cut]))
            else:
                alone = copy.deepcopy(self.network).double()
                for _, cut in batches(np.ones(len(z), dtype=np.int64), BATCH_CELLS):
                    reasons[order[cut]] = _alone(alone, torch.from_numpy(z[cut]).double())
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


def _alone(network: nn.Module, x: Tensor) -> Floats:
    """Contributions and base value float64 [n, F + 1] of documents x [n, F] that are each scored by themselves.

    No score depends on another row, so the gradient of their sum holds each row's own.
    """
    mask = torch.ones(1, len(x), dtype=torch.bool)
    gradient = torch.zeros_like(x)
    for node, weight in zip(*_path(ALONE_STEPS), strict=True):
        point = (x * node).requires_grad_()
        (slope,) = torch.autograd.grad(network(point[None], mask).sum(), point)
        gradient += weight * slope
    with torch.no_grad():
        base = network(torch.zeros_like(x)[None], mask)[0, :, None]
    return torch.cat([x * gradient, base], dim=1).numpy()


def _among_rivals(network: nn.Module, x: Tensor) -> Floats:
    """Contributions and base value float64 [L, F + 1] of one slate x [L, F] whose scores depend on all of it.

    A feature adds ∫ Σ_j x_jf ∂s_i/∂x_jf dt to s_i at t x: the derivative of all scores along column f, which forward
    mode gives in one pass for all i.
    """
    length, columns = x.shape
    with torch.no_grad():
        nodes, weights = _settled(network, x)
        one_column = torch.diag_embed(x).permute(2, 0, 1)  # [F, L, F]: column f of the slate, and zeros
        added = np.zeros((columns, length))
        some = max(1, PATH_CELLS // (columns * length**2))
        for first in range(0, len(nodes), some):
            part = slice(first, first + some)
            points = _along(nodes[part], x)

            def slopes(column: Tensor, points: Tensor = points) -> Tensor:
                return _slope(network, points, column.expand_as(points))

            chunk = max(1, PATH_CELLS // (len(points) * length**2))
            added += np.einsum("n,fnl->fl", weights[part], torch.vmap(slopes, chunk_size=chunk)(one_column).numpy())
        base = network(torch.zeros_like(x)[None], torch.ones(1, length, dtype=torch.bool))[0].numpy()
    return np.column_stack([added.T, base])


def _settled(network: nn.Module, x: Tensor) -> tuple[Floats, Floats]:
    """The nodes and weights that carry the slate's scores from the baseline to x [L, F] within COMPLETE.

    How many depends on the slate: where layer normalisation meets nearly equal documents, scores turn sharply. All
    columns moving at once cost one direction, so trying is cheap; errors fall geometrically with the nodes.
    """
    ends = network(torch.stack([x, torch.zeros_like(x)]), torch.ones(2, len(x), dtype=torch.bool))
    rise = (ends[0] - ends[1]).numpy()
    chunk = max(1, PATH_CELLS // len(x) ** 2)
    steps = FEWEST_STEPS
    while True:
        nodes, weights = _path(steps)
        slopes = [_slope(network, some, x.expand_as(some)).numpy() for some in torch.split(_along(nodes, x), chunk)]
        error = np.abs(weights @ np.concatenate(slopes) - rise).max()
        if error <= max(COMPLETE, FLOAT32 * np.abs(rise).max()) or steps >= MOST_STEPS:
            return nodes, weights
        steps += steps // 2


def _along(nodes: Floats, x: Tensor) -> Tensor:
    """The points [N, L, F] of the line from 0 to x [L, F]."""
    return torch.from_numpy(nodes).to(x.dtype)[:, None, None] * x


def _slope(network: nn.Module, points: Tensor, directions: Tensor) -> Tensor:
    """The derivative [B, L] of the scores of `points` [B, L, F] along `directions`."""
    mask = torch.ones(points.shape[:2], dtype=torch.bool)
    slope: Tensor = torch.func.jvp(lambda at: network(at, mask), (points,), (directions,))[1]
    return slope


def _path(steps: int) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2
