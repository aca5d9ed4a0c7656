"""Is the difference between two systems more than luck? Paired tests and intervals over per-query figures.

All three work on one number a query, in query order: shape [queries], finite, at least one.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieval.errors import InputError

# 2^16 sign patterns are as cheap as the default number of samples, and exact.
EXACT_QUERIES = 16
_CHUNK_CELLS = 4_000_000


def randomisation_test(differences: ArrayLike, *, samples: int = 100_000, seed: int = 0) -> float:
    """Two-sided p-value of the paired randomisation test: how often does a chance sign a query do as well?

    `differences` [queries] is one system's figures less the other's, query by query. Under the null hypothesis the
    systems' names are exchangeable in every query, so each difference may change its sign (Fisher 1935; Smucker, Allan
    and Carterette 2007, section 3.1; the statistic is the mean difference).

    With at most 16 non-zero differences all sign patterns are enumerated and the p-value is exact; otherwise
    `samples` random ones are drawn and p = (as extreme + 1) / (samples + 1), which is never 0 and keeps the level
    (Davison and Hinkley 1997, section 4.2).
    """
    _at_least(1, samples=samples)
    changing = _finite(differences)
    # A query where the systems agree adds 0 under either sign.
    changing = changing[changing != 0]
    observed = abs(changing.sum())
    # Patterns that equal the observed one but for rounding must count as equal.
    bar = observed - 1e-12 * np.abs(changing).sum()
    if changing.size <= EXACT_QUERIES:
        patterns = (np.arange(2**changing.size)[:, None] >> np.arange(changing.size)) & 1
        return float((np.abs(changing.sum() - 2 * (patterns @ changing)) >= bar).mean())
    # One random byte signs eight queries: `table` [groups, 256] holds their sum under each of its 256 patterns.
    groups = np.pad(changing, (0, -changing.size % 8)).reshape(-1, 8)
    table = groups @ (1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)).T
    rng = np.random.default_rng(seed)
    extreme = 0
    for size in _chunks(samples, len(table)):
        patterns = rng.integers(0, 256, (size, len(table)), dtype=np.uint8)
        sums = table.ravel().take(patterns + 256 * np.arange(len(table))).sum(axis=1)
        extreme += int((np.abs(sums) >= bar).sum())
    return (extreme + 1) / (samples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust `p_values` for being several, in their order: Holm 1979's step-down, family-wise, under any dependence.

    The i-th smallest of m is multiplied by m − i + 1, kept monotone and at most 1; compare the result with the level.
    """
    p = _finite(p_values)
    if ((p < 0) | (p > 1)).any():
        raise InputError(f"p-values lie between 0 and 1; found {p[(p < 0) | (p > 1)][0]}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1)
    return [float(value) for value in adjusted]


def bootstrap_ci(
    values: ArrayLike, level: float = 0.95, *, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `values` [queries]: (low, high).

    Queries are drawn with replacement `samples` times; the interval holds the middle `level` of the resampled means
    (Efron 1979; Efron and Tibshirani 1993, section 13.3). One query gives an interval of no width.
    """
    _at_least(1, samples=samples)
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1; found {level}")
    figures = _finite(values)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            figures[rng.integers(0, figures.size, (size, figures.size), dtype=np.int32)].mean(axis=1)
            for size in _chunks(samples, figures.size)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _chunks(samples: int, width: int) -> Iterator[int]:
    """Sizes that sum to `samples`, each a block of memory of a few dozen megabytes at `width` numbers a sample."""
    step = max(1, _CHUNK_CELLS // width)
    for start in range(0, samples, step):
        yield min(step, samples - start)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise InputError(f"needs a non-empty list of one number a query; found the shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputError("needs finite numbers; found NaN or infinity (drop the queries that have no value first)")
    return array


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise InputError(f"{name} must be at least {least}; found {number}")
