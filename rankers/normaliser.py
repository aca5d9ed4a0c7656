"""Features as networks like them: comparable scales, nothing extreme, nothing missing. numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rankers.protocol import Floats

CLIP = 8.0
"""Standard deviations beyond which a value says no more than "extreme": keeps serving sane on unseen data."""


@dataclass(frozen=True)
class Normaliser:
    """Column by column: signed log1p where it makes the column less skewed, z-score, clip at ±8, missing as the mean.

    log: bool [F]; mean: float64 [F]; gain: float64 [F], one over the standard deviation, or 0 for a column that never
    varied in training (about which nothing was learned, so that it stays 0 whatever it holds later).
    """

    log: npt.NDArray[np.bool_]
    mean: Floats
    gain: Floats

    @classmethod
    def fit(cls, x: Floats) -> "Normaliser":
        """Learn from training rows [n, F] alone, NaN where missing."""
        x = np.asarray(x, dtype=np.float64)
        logged = _signed_log1p(x)
        log = np.abs(_skewness(logged)) < np.abs(_skewness(x))
        x = np.where(log, logged, x)
        mean, std = _moments(x)
        varies = std > 1e-6 * np.maximum(1.0, np.abs(mean))
        return cls(log=log, mean=mean, gain=np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0))

    def transform(self, x: Floats) -> Floats:
        """Normalise rows [n, F] into float32 [n, F] within ±8, missing values 0."""
        x = np.asarray(x, dtype=np.float64)
        z = (np.where(self.log, _signed_log1p(x), x) - self.mean) * self.gain
        return np.clip(np.nan_to_num(z, nan=0.0), -CLIP, CLIP).astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        """As JSON holds it, exactly."""
        return {"log": self.log.tolist(), "mean": self.mean.tolist(), "gain": self.gain.tolist()}

    @classmethod
    def from_json(cls, state: Mapping[str, Sequence[float]]) -> "Normaliser":
        """The inverse of `to_json`."""
        return cls(
            log=np.array(state["log"], dtype=bool),
            mean=np.array(state["mean"], dtype=np.float64),
            gain=np.array(state["gain"], dtype=np.float64),
        )


def _signed_log1p(x: Floats) -> Floats:
    logged: Floats = np.sign(x) * np.log1p(np.abs(x))
    return logged


def _moments(x: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the values present in each column, 0 and 0 where there is none."""
    present = ~np.isnan(x)
    count = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, x, 0.0).sum(axis=0) / count
    return mean, np.sqrt((np.where(present, x - mean, 0.0) ** 2).sum(axis=0) / count)


def _skewness(x: Floats) -> Floats:
    mean, std = _moments(x)
    z = np.nan_to_num((x - mean) / np.where(std > 0, std, 1.0))
    skewness: Floats = (z**3).mean(axis=0)
    return skewness
