"""Simulated users: each is the generative story of one click model, told to all pages at once."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rankers.clicks.pages import Bools
from rankers.protocol import Floats
from retrieval.errors import InputError


class User(Protocol):
    """How a user clicks."""

    def clicks(self, attraction: Floats, shown: Bools, rng: np.random.Generator) -> Bools:
        """Clicks [L, S] on S pages of L places from the top, `attraction` [L, S] what stands at each; none unshown."""
        ...


@dataclass(frozen=True)
class PositionBasedUser:
    """Examines place r with probability (1 / r)^eta, whatever else happens (Joachims et al., WSDM 2017)."""

    eta: float = 1.0

    def __post_init__(self) -> None:
        _within("eta", self.eta, 0, 10)

    def examination(self, places: int) -> Floats:
        """(1 / r)^eta for the first `places` places, float64."""
        examined: Floats = np.arange(1, places + 1, dtype=np.float64) ** -self.eta
        return examined

    def clicks(self, attraction: Floats, shown: Bools, rng: np.random.Generator) -> Bools:
        """See User.clicks."""
        clicked: Bools = rng.random(attraction.shape) < attraction * self.examination(len(attraction))[:, None] * shown
        return clicked


@dataclass(frozen=True)
class CascadeUser:
    """Reads from the top, clicks the first document that attracts, and leaves (Craswell et al., WSDM 2008)."""

    def clicks(self, attraction: Floats, shown: Bools, rng: np.random.Generator) -> Bools:
        """See User.clicks."""
        attracted = rng.random(attraction.shape) < attraction * shown
        clicked: Bools = attracted & (np.cumsum(attracted, axis=0) == 1)
        return clicked


@dataclass(frozen=True)
class DynamicBayesianUser:
    """Clicks what attracts, leaves satisfied, else reads on with probability `continuation` (rankers.clicks.dbn).

    A clicked document satisfies with probability `satisfied` times its attraction.
    """

    continuation: float = 0.9
    satisfied: float = 0.8

    def __post_init__(self) -> None:
        _within("continuation", self.continuation, 0, 1)
        _within("satisfied", self.satisfied, 0, 1)

    def clicks(self, attraction: Floats, shown: Bools, rng: np.random.Generator) -> Bools:
        """See User.clicks."""
        clicked = rng.random(attraction.shape) < attraction * shown
        leaves = clicked & (rng.random(attraction.shape) < self.satisfied * attraction)
        leaves |= rng.random(attraction.shape) >= self.continuation
        reading = np.vstack([np.ones((1, attraction.shape[1]), dtype=np.bool_), np.cumsum(leaves, axis=0)[:-1] == 0])
        seen: Bools = clicked & reading
        return seen


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} must lie between {low} and {high}; found {value}")
