"""What a policy would have earned, from the log of another: IPS, SNIPS and doubly robust, each with an interval.

One unit is what was logged at once and independently of the rest: a page, or a bandit's decision. Of each unit the
estimators see sums, so that one action and a whole ranking are the same to them:

    reward    sum of w c            w the importance weight of what was shown, c its click
    control   sum of w e            e the exposure of what was shown; its expectation is `target`, whatever the clicks
    target    the exposure that the new policy would give
    baseline  what a model of clicks expects of the new policy, direct      (doubly robust only)
    residual  sum of w (c - what the model expected there)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from rankers.protocol import Floats
from retrieval.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """A policy's mean reward a unit and its interval at `level`, from Student's t over the units.

    effective: the effective number of units, (sum of w)^2 / sum of w^2 over units (Kong 1992): few of many say that
    the policies hardly overlap, and then the interval is too optimistic.
    """

    name: str
    value: float
    low: float
    high: float
    level: float
    units: int
    effective: float


@dataclass(frozen=True)
class Units:
    """One float64 number a unit, [n]; see the module. baseline and residual are None without a model of clicks."""

    reward: Floats
    control: Floats
    target: Floats
    baseline: Floats | None = None
    residual: Floats | None = None

    def __post_init__(self) -> None:
        parts = [self.reward, self.control, self.target, *(p for p in (self.baseline, self.residual) if p is not None)]
        if len({part.shape for part in parts}) != 1 or self.reward.ndim != 1 or len(self.reward) < 2:
            raise InputError("off-policy estimates need one number a unit, of at least 2 units")
        if not all(np.isfinite(part).all() for part in parts):
            raise InputError("off-policy estimates need finite weights and rewards; found NaN or infinity")


def ips(units: Units, *, level: float = 0.95) -> Estimate:
    """Inverse propensity scoring (Horvitz and Thompson 1952): the mean reward. Unbiased; its variance can be large."""
    return _estimate("ips", units.reward, units, level)


def snips(units: Units, *, level: float = 0.95) -> Estimate:
    """Self-normalised (Swaminathan and Joachims, NeurIPS 2015): reward over control, times the target.

    Consistent, with a bias of order 1/n, and steadier: a sample that drew too much weight is scaled back. The interval
    is by the delta method.
    """
    control = units.control.mean()
    if control <= 0:
        return _estimate("snips", np.zeros_like(units.reward), units, level)
    rate, target = units.reward.mean() / control, units.target.mean()
    influence = rate * units.target + target / control * (units.reward - rate * units.control)
    return _estimate("snips", influence, units, level)


def doubly_robust(units: Units, *, level: float = 0.95) -> Estimate:
    """Dudík, Langford and Li, ICML 2011: a model's expectation, corrected by what it got wrong where it can be seen.

    Unbiased when the weights are right or the model is. Raises InputError without a model of clicks.
    """
    if units.baseline is None or units.residual is None:
        raise InputError("a doubly robust estimate needs a model of clicks; there is none")
    return _estimate("dr", units.baseline + units.residual, units, level)


def estimates(units: Units, *, level: float = 0.95) -> list[Estimate]:
    """IPS, SNIPS and, where there is a model of clicks, DR."""
    found = [ips(units, level=level), snips(units, level=level)]
    return found if units.baseline is None else [*found, doubly_robust(units, level=level)]


def bandit_units(
    weights: Floats,
    rewards: Floats,
    *,
    expected_logged: Floats | None = None,
    expected_policy: Floats | None = None,
    clip: float = float("inf"),
) -> Units:
    """Units of a contextual bandit's log: weights [n] = new policy's over logging policy's probability of the action.

    expected_logged, expected_policy: what a model expects of the logged action, and of the new policy in that context.
    clip: the largest weight. Raises InputError for a weight that is negative and as `Units` does.
    """
    weights, rewards = np.asarray(weights, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    if weights.shape != rewards.shape:
        raise InputError(f"off-policy estimates need one weight a reward; found {len(weights)} and {len(rewards)}")
    if (weights < 0).any() or not clip > 0:
        raise InputError("importance weights are at least 0, and their clip is above 0")
    w = np.minimum(weights, clip)
    if (expected_logged is None) != (expected_policy is None):
        raise InputError("a model of rewards is needed for the logged actions and for the new policy, or for neither")
    if expected_logged is None or expected_policy is None:
        return Units(w * rewards, w, np.ones_like(w))
    residual = w * (rewards - np.asarray(expected_logged, dtype=np.float64))
    return Units(w * rewards, w, np.ones_like(w), np.asarray(expected_policy, dtype=np.float64), residual)


def of(name: str, found: Sequence[Estimate]) -> Estimate:
    """The estimate called `name`. Raises InputError that lists those there are."""
    for estimate in found:
        if estimate.name == name:
            return estimate
    raise InputError(f"no estimate {name!r}; there are: {', '.join(estimate.name for estimate in found)}")


def _estimate(name: str, influence: Floats, units: Units, level: float) -> Estimate:
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1; found {level}")
    n = len(influence)
    value = float(influence.mean())
    half = float(student.ppf((1 + level) / 2, n - 1) * influence.std(ddof=1) / np.sqrt(n))
    squares = float((units.control**2).sum())
    effective = float(units.control.sum() ** 2 / squares) if squares else 0.0
    return Estimate(name, value, value - half, value + half, level, n, effective)
