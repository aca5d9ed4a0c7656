"""Many systems on the same queries, every pair of them: p-values, intervals, mean ranks and who cannot be told apart.

All of it works on figures [queries, systems], one number a query and system, finite, a row for the same query in each
column. The statistics are those of `retrieval.significance`; here all systems share one set of sign patterns, and of
resampled queries, so that 435 pairs of 30 systems cost one matrix product and not 435 tests.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2, rankdata

from retrieval.errors import InputError
from retrieval.significance import EXACT_QUERIES, randomisation_test

Floats = NDArray[np.float64]

SAME = 1e-12
"""Figures of one query that differ by less than this are equal: sums of the same gains, rounded apart."""

_CELLS = 4_000_000


def p_values(figures: ArrayLike, *, samples: int = 100_000, seed: int = 0) -> Floats:
    """The two-sided paired randomisation test of every pair of systems, [systems, systems], 1 on the diagonal.

    The test, its +1 and its exact case are `significance.randomisation_test`'s. The mean difference of two systems
    under a pattern of signs is the difference of their signed means, so each pattern is drawn once and serves all
    pairs. The p-values of one pair are as good as alone; those of several share their sampling error.
    """
    x = _table(figures)
    x = x - x.mean(axis=1, keepdims=True)  # changes no difference, and keeps the sums small
    queries, systems = x.shape
    totals, size = x.sum(axis=0), np.abs(x).sum(axis=0)
    # Patterns that equal the observed one but for rounding must count as equal.
    bar = np.abs(totals[:, None] - totals) - SAME * (size[:, None] + size)
    extreme = np.zeros((systems, systems))
    for flipped in _flips(queries, samples, seed):
        signed = totals - 2 * (flipped @ x)
        for one in range(systems - 1):
            apart = np.abs(signed[:, one + 1 :] - signed[:, one, None])
            extreme[one, one + 1 :] += (apart >= bar[one, one + 1 :]).sum(axis=0)
    p = extreme / 2**queries if queries <= EXACT_QUERIES else (extreme + 1) / (samples + 1)
    if queries > EXACT_QUERIES:
        for pair in zip(*np.triu_indices(systems, 1), strict=True):
            difference = x[:, pair[0]] - x[:, pair[1]]
            difference[np.abs(difference) < SAME] = 0
            if np.count_nonzero(difference) <= EXACT_QUERIES:
                p[pair] = randomisation_test(difference)
    p = np.triu(p, 1)
    return p + p.T + np.eye(systems)


def resampled_means(figures: ArrayLike, *, samples: int = 10_000, seed: int = 0) -> Floats:
    """Means over `samples` resamplings of the queries, [samples, columns]: the bootstrap of `bootstrap_ci`, shared.

    The same queries are drawn as `significance.bootstrap_ci` draws them, so the quantiles of a column are its interval.
    """
    x = _table(figures)
    queries = len(x)
    rng = np.random.default_rng(seed)
    means = []
    for size in _chunks(samples, queries):
        drawn = rng.integers(0, queries, (size, queries), dtype=np.int32)
        cells = (drawn + queries * np.arange(size)[:, None]).ravel()
        times = np.bincount(cells, minlength=size * queries).reshape(size, queries)
        means.append(times.astype(np.float64) @ x / queries)
    return np.concatenate(means)


def interval(means: Floats, level: float = 0.95) -> Floats:
    """The middle `level` of resampled means [samples, …]: low and high, [2, …]."""
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)


def ranks(figures: ArrayLike) -> Floats:
    """The rank of each system on each query, [queries, systems], 1 the best, equal figures sharing their mean rank."""
    return np.asarray(rankdata(-np.round(_table(figures), 12), axis=1), dtype=np.float64)


def friedman(ranks: Floats) -> tuple[float, float]:
    """Friedman's test that all systems rank alike, from `ranks` of at least two: the statistic and its p-value.

    Friedman 1937, with the correction for ties (Conover 1999, section 5.8), chi-squared with systems − 1 degrees of
    freedom. Where every query ties every system there is nothing to test: (0, 1).
    """
    queries, systems = ranks.shape
    spread = (ranks**2).sum() - queries * systems * (systems + 1) ** 2 / 4
    if spread <= SAME:
        return 0.0, 1.0
    totals = ranks.sum(axis=0) - queries * (systems + 1) / 2
    statistic = float((systems - 1) * (totals**2).sum() / spread)
    return statistic, float(chi2.sf(statistic, systems - 1))


def cliques(alike: NDArray[np.bool_]) -> list[list[int]]:
    """The maximal sets of systems of which every two are `alike` [systems, systems], each sorted, those alone left out.

    Bron and Kerbosch 1973 with Tomita's pivot. A diagram's bars are these: to leave one out, or to draw it over a
    system that is not in it, would say something false about a pair.
    """
    near = [{int(other) for other in np.flatnonzero(row) if other != one} for one, row in enumerate(alike)]
    found: list[list[int]] = []

    def grow(chosen: list[int], open_: set[int], done: set[int]) -> None:
        if not open_ and not done:
            found.append(sorted(chosen))
            return
        pivot = max(open_ | done, key=lambda one: len(near[one] & open_))
        for one in sorted(open_ - near[pivot]):
            grow([*chosen, one], open_ & near[one], done & near[one])
            open_ = open_ - {one}
            done = done | {one}

    grow([], set(range(len(near))), set())
    return sorted(clique for clique in found if len(clique) > 1)


def _flips(queries: int, samples: int, seed: int) -> Iterator[Floats]:
    """Which queries change their sign, 0 or 1, [patterns, queries]: all patterns where they are few, else random."""
    if queries <= EXACT_QUERIES:
        yield ((np.arange(2**queries)[:, None] >> np.arange(queries)) & 1).astype(np.float64)
        return
    rng = np.random.default_rng(seed)
    for size in _chunks(samples, queries):
        random = rng.integers(0, 256, (size, -(-queries // 8)), dtype=np.uint8)
        yield np.unpackbits(random, axis=1, count=queries).astype(np.float64)


def _chunks(samples: int, width: int) -> Iterator[int]:
    step = max(1, _CELLS // width)
    for start in range(0, samples, step):
        yield min(step, samples - start)


def _table(figures: ArrayLike) -> Floats:
    x = np.asarray(figures, dtype=np.float64)
    if x.ndim != 2 or not x.size:
        raise InputError(f"needs figures of at least one query and one system; found the shape {x.shape}")
    if not np.isfinite(x).all():
        raise InputError("needs finite figures; found NaN or infinity (drop the queries that have no value first)")
    return x
