"""Where boosting starts from: one feature, scaled. numpy only.

Trees spend their first rounds, and much of a small training set, on learning that a good first-stage score is good.
Given that score as LightGBM's `init_score` they only learn what to change about it, and a model stopped early, or grown
on next to nothing, ranks as the first stage did instead of at random. It pays below about a hundred training queries;
with several hundred, trees find their own way as well or better.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from rankers.protocol import Floats
from rankers.slates import Slates

WIDEST = 100.0
RIDGE = 1e-3


@dataclass(frozen=True)
class HeadStart:
    """`intercept + scale * (x[column] - mean)`, where a missing value counts as the lowest seen in training."""

    column: int
    mean: float
    scale: float
    intercept: float
    lowest: float

    def __call__(self, x: Floats) -> Floats:
        """The starting scores, float64 [n], of rows x [n, F]."""
        return self.intercept + self.contribution(x)

    def contribution(self, x: Floats) -> Floats:
        """The column's exact SHAP value, float64 [n]; the intercept is what belongs to the base value."""
        value: Floats = self.scale * (_present(x[:, self.column], self.lowest) - self.mean)
        return value

    def to_json(self) -> dict[str, float]:
        """As JSON holds it, exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, float]) -> "HeadStart":
        """The inverse of `to_json`."""
        return cls(int(state["column"]), state["mean"], state["scale"], state["intercept"], state["lowest"])


def fit_regression(slates: Slates, column: int) -> HeadStart:
    """Least squares of relevance on the column: where boosting on squared error starts."""
    x, mean, lowest = _centred(slates, column)
    intercept = float(slates.relevance.mean())
    variance = float((x * x).mean())
    scale = float((x * slates.relevance).mean()) / variance if variance > 0 else 0.0
    return HeadStart(column, mean, scale, intercept, lowest)


def fit_listwise(slates: Slates, column: int) -> HeadStart:
    """The scale under which softmax over a slate best predicts where its relevance lies: where lambdarank starts.

    Maximises the mean over slates of sum_i p_i log softmax(scale x)_i, p the slate's relevance normalised to 1
    (ListNet: Cao et al., ICML 2007). Under it document i beats j with probability sigmoid(scale (x_i - x_j)), the very
    odds that lambdarank's pairwise gradients start from. The derivative falls in the scale, so it is found by
    bisection; a touch of ridge keeps it finite when the column alone ranks perfectly.
    """
    x, mean, lowest = _centred(slates, column)
    spread = float(x.std())
    if spread == 0:
        return HeadStart(column, mean, 0.0, 0.0, lowest)
    x = x / spread
    starts = np.cumsum(slates.sizes) - slates.sizes
    wanted = _mean_by_slate(x, slates.relevance.astype(np.float64), starts)
    top = np.repeat(np.maximum.reduceat(x, starts), slates.sizes)
    bottom = np.repeat(np.minimum.reduceat(x, starts), slates.sizes)
    low, high = -WIDEST, WIDEST
    while high - low > 1e-6:
        scale = (low + high) / 2
        weights = np.exp(scale * (x - (top if scale > 0 else bottom)))
        rising = float(np.mean(wanted - _mean_by_slate(x, weights, starts))) - 2 * RIDGE * scale > 0
        low, high = (scale, high) if rising else (low, scale)
    return HeadStart(column, mean, (low + high) / 2 / spread, 0.0, lowest)


def _centred(slates: Slates, column: int) -> tuple[Floats, float, float]:
    raw = slates.x[:, column].astype(np.float64)
    lowest = 0.0 if np.isnan(raw).all() else float(np.nanmin(raw))
    x = _present(raw, lowest)
    mean = float(x.mean())
    return x - mean, mean, lowest


def _present(x: Floats, lowest: float) -> Floats:
    return np.nan_to_num(x.astype(np.float64), nan=lowest)


def _mean_by_slate(x: Floats, weights: Floats, starts: np.typing.NDArray[np.integer]) -> Floats:
    mean: Floats = np.add.reduceat(x * weights, starts) / np.add.reduceat(weights, starts)
    return mean
