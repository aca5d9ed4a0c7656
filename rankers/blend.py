"""Several rankers as one: an average of their rankings, or a stack whose weights are fitted on validation queries."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import polars as pl
from scipy.optimize import minimize

from rankers.artifact import DESCRIPTION, Artifact, Setting, load_ranker, write
from rankers.protocol import Family, Floats, Ranker
from rankers.slates import Ints, Ndcg, Slates, grouping
from retrieval.errors import InputError, IntegrityError

Method: TypeAlias = Literal["rank", "stack"]
BlendMethod: TypeAlias = Literal["rank", "stack", "best"]

RIDGE = 1.0
"""Holds a stack's weights to equal ones: with a hundred validation queries they are noisy (chosen on validation)."""


@dataclass(frozen=True)
class BlendRanker:
    """Fitted rankers and a weight [M] for each, summing to 1; see rankers.protocol.Ranker.

    method: "rank" averages a document's places in the members' rankings of its slate, each as a number from 1 (first)
    to 0 (last), ties sharing; "stack" averages the members' scores after a z-score within the slate.
    """

    name: str
    family: Family
    members: tuple[Ranker, ...]
    weights: tuple[float, ...]
    method: Method

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Every feature that some member reads, in the order of first mention."""
        return tuple(dict.fromkeys(name for member in self.members for name in member.feature_names))

    @property
    def hyperparameters(self) -> Mapping[str, Setting]:
        """The method, the members' names and their weights."""
        return {"method": self.method, "members": [m.name for m in self.members], "weights": list(self.weights)}

    @classmethod
    def of(cls, artifact: Artifact, folder: Path) -> "BlendRanker":
        """Rebuild from a verified artifact and the members' folders beside it, each held to the checksum it had."""
        said = json.loads(artifact.model)
        members = []
        for number, expected in enumerate(said["members"]):
            place = _member(folder, number)
            if not (place / DESCRIPTION).is_file() or _description(place) != expected:
                raise IntegrityError(f"{place}: is not the member that was blended; publish the ranker again")
            members.append(load_ranker(place))
        return cls(artifact.name, artifact.family, tuple(members), tuple(said["weights"]), said["method"])

    def save(self, folder: Path) -> None:
        """Write the members into `folder`/members, then ranker.json and blend.json."""
        for number, member in enumerate(self.members):
            member.save(_member(folder, number))
        sums = [_description(_member(folder, number)) for number in range(len(self.members))]
        said = {"method": self.method, "weights": self.weights, "members": sums}
        write(
            Artifact(
                name=self.name,
                family=self.family,
                kind="blend",
                feature_names=self.feature_names,
                hyperparameters=self.hyperparameters,
                model=json.dumps(said, indent=1).encode(),
            ),
            folder,
        )

    def score(self, features: pl.DataFrame) -> Floats:
        """Score each row, float32 [n]; see Ranker.score."""
        order, sizes = grouping(features, "features")
        scores = np.empty(features.height, dtype=np.float32)
        if features.height:
            members = np.stack([member.score(features)[order] for member in self.members])
            scores[order] = np.asarray(self.weights) @ _comparable(members, sizes, self.method)
        return scores

    def explain(self, features: pl.DataFrame) -> Floats:
        """The members' own contributions, scaled as their scores are, float64 [n, F + 1], the base value last.

        A z-score is linear in the score, so that of a stack is exact. A place is not: it is shared out among the
        features in proportion to what they add to the score beyond the slate's mean.
        """
        order, sizes = grouping(features, "features")
        reasons = np.zeros((features.height, len(self.feature_names) + 1))
        if not features.height:
            return reasons
        column = {name: place for place, name in enumerate(self.feature_names)}
        slate = np.repeat(np.arange(len(sizes)), sizes)
        for member, weight in zip(self.members, self.weights, strict=True):
            parts = np.asarray(member.explain(features))[order]
            # The member's own scores: sums of parts differ in their last bits, and equal scores must stay equal.
            scores = np.asarray(member.score(features))[order].astype(np.float64)
            blended = _comparable(scores[None], sizes, self.method)[0]
            centre, level = _mean(scores, sizes)[slate], _mean(blended, sizes)[slate]
            apart = scores - centre
            scale = np.divide(blended - level, apart, out=np.zeros_like(apart), where=np.abs(apart) > 1e-12)
            parts[:, -1] -= centre
            columns = np.array([*(column[name] for name in member.feature_names), len(column)])
            scaled = parts * scale[:, None]
            scaled[:, -1] += blended - scaled.sum(axis=1)  # the slate's level, and a tie that no feature explains
            reasons[np.ix_(order, columns)] += weight * scaled
        return reasons


def fit_blend(
    members: Sequence[Ranker], valid: pl.DataFrame, *, method: BlendMethod = "best", name: str = "blend"
) -> BlendRanker:
    """Blend fitted `members`; what is fitted, and which method is "best", is read off the validation frame alone.

    valid: FEATURES with `relevance: Int32`. "rank" has equal weights. "stack" has those of at least 0 that minimise the
    softmax cross-entropy of the blended scores (`rankers.listwise.softmax`) with a ridge towards equal ones. Raises
    InputError as `Slates.of` does, for fewer than two members, and for an unknown method.
    """
    if len(members) < 2:
        raise InputError(f"a blend needs at least two rankers; found {len(members)}")
    if method not in get_args(BlendMethod):
        raise InputError(f"unknown way to blend {method!r}; known: rank, stack, best")
    names = list(dict.fromkeys(feature for member in members for feature in member.feature_names))
    slates = Slates.of(valid, names, "valid")
    relevant = valid.filter((pl.col("relevance") > 0).any().over("qid"))
    order, sizes = grouping(relevant, "valid")
    scores = np.stack([member.score(relevant)[order] for member in members])
    equal = np.full(len(members), 1.0 / len(members))
    weights: dict[Method, Floats] = {"rank": equal}
    if method != "rank":
        weights["stack"] = _fit_weights(_comparable(scores, sizes, "stack"), slates.relevance, sizes)
    if method == "stack":
        del weights["rank"]
    ndcg = Ndcg(slates)
    judged = {way: ndcg(np.asarray(w @ _comparable(scores, sizes, way))) for way, w in weights.items()}
    chosen = max(judged, key=lambda way: judged[way])
    return BlendRanker(name, "listwise", tuple(members), tuple(map(float, weights[chosen])), chosen)


def _fit_weights(z: Floats, relevance: Floats | Ints, sizes: Ints) -> Floats:
    """Weights [M] for comparable scores z [M, n], summing to 1; the blend's overall scale is fitted, then dropped."""
    starts = np.cumsum(sizes) - sizes
    slate = np.repeat(np.arange(len(sizes)), sizes)
    target = relevance / np.add.reduceat(relevance.astype(np.float64), starts)[slate]
    members = len(z)

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = weights @ z
        exponentials = np.exp(scores - np.maximum.reduceat(scores, starts)[slate])
        share = exponentials / np.add.reduceat(exponentials, starts)[slate]
        apart = weights - weights.mean()
        value = -np.sum(target * np.log(np.maximum(share, 1e-300))) / len(sizes) + RIDGE * np.sum(apart**2)
        return float(value), z @ (share - target) / len(sizes) + 2 * RIDGE * apart

    found = minimize(loss, np.full(members, 1.0 / members), jac=True, method="L-BFGS-B", bounds=[(0, None)] * members)
    total = float(found.x.sum())
    weights: Floats = found.x / total if total > 0 else np.full(members, 1.0 / members)
    return weights


def _comparable(scores: Floats, sizes: Ints, method: Method) -> Floats:
    """Members' scores [M, n] in canonical order on one scale within each slate."""
    slate = np.repeat(np.arange(len(sizes)), sizes)
    if method == "stack":
        centred = scores - np.stack([_mean(row, sizes) for row in scores])[:, slate]
        spread = np.sqrt(np.stack([_mean(row**2, sizes) for row in centred]))[:, slate]
        return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
    return np.stack([_places(row, sizes, slate) for row in scores])


def _places(scores: Floats, sizes: Ints, slate: Ints) -> Floats:
    """1 for the first of a slate to 0 for the last, [n]; equal scores share the mean of their places."""
    order = np.lexsort((scores, slate))
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = np.arange(len(scores)) - starts
    same = (np.diff(scores[order], prepend=np.nan) == 0) & (np.diff(slate[order], prepend=-1) == 0)
    tie = np.cumsum(~same) - 1
    shared = (np.bincount(tie, place) / np.bincount(tie))[tie]
    places = np.empty(len(scores))
    places[order] = shared / np.maximum(np.repeat(sizes, sizes) - 1, 1)
    return places


def _mean(values: Floats, sizes: Ints) -> Floats:
    mean: Floats = np.add.reduceat(values.astype(np.float64), np.cumsum(sizes) - sizes) / sizes
    return mean


def _member(folder: Path, number: int) -> Path:
    return folder / "members" / str(number)


def _description(folder: Path) -> str:
    return hashlib.sha256((folder / DESCRIPTION).read_bytes()).hexdigest()
