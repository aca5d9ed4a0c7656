"""Features as networks like them: comparable scales, nothing extreme, nothing missing. numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from rankers.protocol import Floats
from retrieval.errors import InputError

Normalisation: TypeAlias = Literal["auto", "zscore", "log", "quantile"]

CLIP = 8.0
"""Standard deviations beyond which a value says no more than "extreme": keeps serving sane on unseen data."""
QUANTILES = 100
"""Points of a column's distribution that "quantile" keeps."""


@dataclass(frozen=True)
class Normaliser:
    """Column by column: signed log1p or quantiles, z-score, clip at ±8, missing as the mean (0 afterwards).

    log: bool [F]; mean: float64 [F]; gain: float64 [F], one over the standard deviation, or 0 for a column that never
    varied in training (about which nothing was learned, so that it stays 0 whatever it holds later); grid, level: for
    "quantile", a column's ascending values and the share of training rows below each, both [<= 100]; else empty.
    """

    log: npt.NDArray[np.bool_]
    mean: Floats
    gain: Floats
    grid: Sequence[Floats] = ()
    level: Sequence[Floats] = ()

    @classmethod
    def fit(cls, x: Floats, kind: Normalisation = "auto") -> "Normaliser":
        """Learn from training rows [n, F] alone, NaN where missing.

        kind: "zscore" leaves values as they are before the z-score, "log" takes signed log1p of every column, "auto"
        of those that it makes less skewed, "quantile" the share of training rows below the value (ties: half of them).
        """
        if kind not in get_args(Normalisation):
            raise InputError(f"unknown normalisation {kind!r}; known: {', '.join(get_args(Normalisation))}")
        columns = x.shape[1]
        log = np.zeros(columns, dtype=bool)
        mean, gain = np.zeros(columns), np.zeros(columns)
        grid, level = [], []
        for column in range(columns):
            values: Floats = x[:, column].astype(np.float64)
            values = values[~np.isnan(values)]
            if kind == "quantile":
                points, shares = _quantiles(values)
                grid.append(points)
                level.append(shares)
                values = np.interp(values, points, shares) if len(values) else values
            elif kind != "zscore":
                logged = _signed_log1p(values)
                log[column] = kind == "log" or abs(_skewness(logged)) < abs(_skewness(values))
                values = logged if log[column] else values
            if len(values):
                mean[column], std = values.mean(), values.std()
                gain[column] = 1.0 / std if std > 1e-6 * max(1.0, abs(mean[column])) else 0.0
        return cls(log, mean, gain, grid, level)

    def transform(self, x: Floats) -> Floats:
        """Normalise rows [n, F] into float32 [n, F] within ±8, missing values 0."""
        z = np.empty(x.shape, dtype=np.float32)
        # Blocks of rows, so that a large training set is never held in float64.
        for start in range(0, len(x), 65_536):
            rows = np.asarray(x[start : start + 65_536], dtype=np.float64)
            if len(self.grid):
                columns = [np.interp(*parts) for parts in zip(rows.T, self.grid, self.level, strict=True)]
                rows = np.where(np.isnan(rows), np.nan, np.stack(columns, axis=1))
            elif self.log.any():
                rows = np.where(self.log, _signed_log1p(rows), rows)
            scaled = np.nan_to_num((rows - self.mean) * self.gain, nan=0.0)
            z[start : start + 65_536] = np.clip(scaled, -CLIP, CLIP)
        return z

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it, exactly."""
        state: dict[str, Any] = {"log": self.log.tolist(), "mean": self.mean.tolist(), "gain": self.gain.tolist()}
        if len(self.grid):
            state |= {"grid": [g.tolist() for g in self.grid], "level": [share.tolist() for share in self.level]}
        return state

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Normaliser":
        """The inverse of `to_json`."""
        return cls(
            log=np.array(state["log"], dtype=bool),
            mean=np.array(state["mean"], dtype=np.float64),
            gain=np.array(state["gain"], dtype=np.float64),
            grid=[np.array(points, dtype=np.float64) for points in state.get("grid", ())],
            level=[np.array(shares, dtype=np.float64) for shares in state.get("level", ())],
        )


def _quantiles(values: Floats) -> tuple[Floats, Floats]:
    """At most 100 ascending points of a column's distribution and the share of its values below each, ties half."""
    if not len(values):
        return np.zeros(1), np.zeros(1)
    ordered = np.sort(values)
    points = np.unique(np.quantile(ordered, np.linspace(0, 1, QUANTILES), method="nearest"))
    below, upto = (np.searchsorted(ordered, points, side=side) for side in ("left", "right"))
    return points, (below + upto) / (2 * len(ordered))


def _signed_log1p(x: Floats) -> Floats:
    logged: Floats = np.sign(x) * np.log1p(np.abs(x))
    return logged


def _skewness(values: Floats) -> float:
    """Of one column's present values; 0 where they do not vary."""
    if not len(values) or not (std := values.std()):
        return 0.0
    return float((((values - values.mean()) / std) ** 3).mean())
