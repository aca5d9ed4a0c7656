"""The dynamic Bayesian network: read down, click what attracts, leave satisfied or go on.

Chapelle and Zhang, "A dynamic Bayesian network click model for web search ranking", WWW 2009. The first place is read.
A document that is read is clicked when it attracts (probability a); one that is clicked satisfies (s), and then the
user leaves; otherwise the next place is read with probability g, the perseverance.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from rankers.clicks.log import check_log
from rankers.clicks.pages import Pages
from rankers.clicks.pbm import check_budget
from rankers.clicks.protocol import FLOOR, looked_up
from rankers.protocol import Floats, Log
from retrieval.errors import InputError

TINY = 1e-300
"""Stands for a probability of 0 where one divides by it or takes its logarithm."""


@dataclass(frozen=True)
class DynamicBayesian:
    """parameters: qid, docid, `attraction`, `satisfaction`, impressions; continuation: g, in (0, 1]."""

    name: ClassVar[str] = "dbn"
    parameters: pl.DataFrame
    continuation: float

    @property
    def shared(self) -> dict[str, float | list[float] | list[int]]:
        """The continuation; see ClickModel.shared."""
        return {"continuation": self.continuation}

    def marginal(self, pages: Pages) -> Floats:
        """a_r P(E_r), where P(E_r+1) = P(E_r) g (1 - a_r s_r); see ClickModel.marginal."""
        a, s = self._both(pages)
        reached = np.cumprod(self.continuation * (1 - a * s), axis=0)
        probability: Floats = a * np.vstack([np.ones((1, a.shape[1])), reached[:-1]])
        return probability

    def conditional(self, pages: Pages) -> Floats:
        """a_r P(E_r | clicks above): after a click g (1 - s), after none g e (1 - a) / (1 - e a), e the one before."""
        a, s = self._both(pages)
        probability, read = np.empty_like(a), np.ones(a.shape[1])
        for place in range(len(a)):
            probability[place] = read * a[place]
            skipped = read * (1 - a[place]) / np.maximum(1 - read * a[place], FLOOR)
            read = self.continuation * np.where(pages.click[place], 1 - s[place], skipped)
        return probability

    def relevance(self) -> pl.DataFrame:
        """Attraction times satisfaction, the probability of satisfying who reads it; see ClickModel.relevance."""
        satisfied = (pl.col("attraction") * pl.col("satisfaction")).cast(pl.Float32)
        return self.parameters.select("qid", "docid", relevance=satisfied)

    def _both(self, pages: Pages) -> tuple[Floats, Floats]:
        return looked_up(self.parameters, "attraction", pages), looked_up(self.parameters, "satisfaction", pages)


@dataclass(frozen=True)
class _Posterior:
    """P(E = 1) and, of clicked places, P(S = 1), given all of a page's clicks: [L, S]; and the log-likelihood [S]."""

    read: Floats
    satisfied: Floats
    log_likelihood: Floats


def fit_dbn(
    clicks: pl.DataFrame,
    *,
    log: Log,
    continuation: float | None = None,
    iterations: int = 100,
    tolerance: float = 1e-6,
    smoothing: float = 1.0,
) -> DynamicBayesian:
    """Fit the model to a LOG by expectation maximisation (Chapelle and Zhang 2009).

    continuation: the perseverance g, held at this value; None estimates it as well. smoothing: a Beta prior as in
    `fit_pbm`, of the log's mean click rate for attraction and of one half for satisfaction.

    M-step: attraction = clicks over expected reads; satisfaction = expected satisfied clicks over clicks; continuation
    = expected reads of a next place over expected unsatisfied reads that have one. log: called with `log_likelihood`,
    the mean over pages, each iteration; stops when it gains less than `tolerance`. Raises InputError as `check_log`
    does and for a continuation outside (0, 1].
    """
    check_budget(iterations, smoothing)
    if continuation is not None and not 0 < continuation <= 1:
        raise InputError(f"the continuation must be above 0 and at most 1; found {continuation}")
    pages = Pages.of(check_log(clicks, "log"))
    clicked = pages.sums(pages.click.astype(np.float64))
    shown = pages.sums(np.ones(pages.click.shape))
    rate = clicked.sum() / shown.sum()
    attraction, satisfaction = (clicked + rate) / (shown + 1), np.full(len(shown), 0.5)
    going_on = 0.9 if continuation is None else continuation
    has_next = np.vstack([pages.shown[1:], np.zeros((1, pages.shown.shape[1]), dtype=np.bool_)])
    before = -np.inf
    for iteration in range(1, iterations + 1):
        found = _expect(pages, attraction[pages.pair], satisfaction[pages.pair], going_on)
        now = float(found.log_likelihood.mean())
        log({"log_likelihood": now}, iteration)
        if now - before < tolerance:
            break
        before = now
        attraction = _mean(clicked, pages.sums(found.read), smoothing, rate)
        satisfaction = _mean(pages.sums(found.satisfied), clicked, smoothing, 0.5)
        if continuation is None:
            unsatisfied = (found.read - found.satisfied)[has_next].sum()
            going_on = min(found.read[1:].sum() / max(unsatisfied, FLOOR), 1.0) if has_next.any() else 1.0
    parameters = pages.pairs.with_columns(
        attraction=pl.Series(attraction),
        satisfaction=pl.Series(satisfaction),
        impressions=pl.Series(shown.astype(np.int64)),
    )
    return DynamicBayesian(parameters.sort("qid", "docid"), float(going_on))


def _mean(successes: Floats, trials: Floats, smoothing: float, prior: float) -> Floats:
    total = trials + smoothing
    mean: Floats = np.where(total > 0, (successes + smoothing * prior) / np.maximum(total, TINY), prior)
    return np.clip(mean, 0.0, 1.0)


def _expect(pages: Pages, a: Floats, s: Floats, going_on: float) -> _Posterior:
    """The E-step; a, s: attraction and satisfaction of what stands at each place, [L, S].

    Down to the last click nothing but the satisfaction of that click is hidden: every place was read, and no click
    above it can have satisfied. Below it, each further read is weighed by seeing no click from there on.
    """
    last = pages.last_click()
    silent = _silence(pages, a, going_on)
    read, satisfied = np.zeros(a.shape), np.zeros(a.shape)
    likelihood = np.where(last < 0, np.log(np.maximum(silent[0], TINY)), 0.0)
    onward = np.zeros(len(last))
    for place in range(len(a)):
        above = place <= last
        read[place] = np.where(above | (place == 0), 1.0, onward * going_on * silent[place]) * pages.shown[place]
        stays = np.maximum(1 - going_on + going_on * silent[place + 1], TINY)  # unsatisfied, and no click follows
        ends = s[place] + (1 - s[place]) * stays
        satisfied[place] = np.where(last == place, s[place] / np.maximum(ends, TINY), 0.0)
        onward = np.where(last == place, (1 - s[place]) / np.maximum(ends, TINY), read[place] / stays)
        goes = going_on * np.where(pages.click[place], 1 - s[place], 1.0)
        step = np.where(pages.click[place], a[place], 1 - a[place]) * np.where(last == place, ends, goes)
        likelihood += np.where(above, np.log(np.maximum(step, TINY)), 0.0)
    return _Posterior(read, satisfied, likelihood)


def _silence(pages: Pages, a: Floats, going_on: float) -> Floats:
    """b [L + 1, S]: the probability of no click from a place on when it is read, 1 past the end of a page.

    b_r = (1 - a_r) (1 - g + g b_r+1).
    """
    silent = np.ones((len(a) + 1, a.shape[1]))
    for place in range(len(a) - 1, -1, -1):
        quiet = (1 - a[place]) * (1 - going_on + going_on * silent[place + 1])
        silent[place] = np.where(pages.shown[place], quiet, 1.0)
    return silent
