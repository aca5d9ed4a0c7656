"""The cascade model: the user reads from the top, clicks the first attractive document, and leaves.

Craswell, Zoeter, Taylor and Ramsey, "An experimental comparison of click position-bias models", WSDM 2008.
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


@dataclass(frozen=True)
class Cascade:
    """parameters: qid, docid, `attraction`, impressions."""

    name: ClassVar[str] = "cascade"
    parameters: pl.DataFrame

    @property
    def shared(self) -> dict[str, float | list[float] | list[int]]:
        """Nothing is shared; see ClickModel.shared."""
        return {}

    def marginal(self, pages: Pages) -> Floats:
        """a_r times the product over i < r of (1 - a_i); see ClickModel.marginal."""
        attraction = looked_up(self.parameters, "attraction", pages)
        above = np.cumprod(1 - np.where(pages.shown, attraction, 0.0), axis=0)
        reached = np.vstack([np.ones((1, above.shape[1])), above[:-1]])
        probability: Floats = attraction * reached
        return probability

    def conditional(self, pages: Pages) -> Floats:
        """a_r up to the first click, 0 below it: the model knows of no second click. See ClickModel.conditional."""
        below = np.arange(len(pages.click))[:, None] > pages.first_click()
        probability: Floats = np.where(below, 0.0, looked_up(self.parameters, "attraction", pages))
        return probability

    def relevance(self) -> pl.DataFrame:
        """The attraction of each pair; see ClickModel.relevance."""
        return self.parameters.select("qid", "docid", relevance=pl.col("attraction").cast(pl.Float32))


def fit_cascade(clicks: pl.DataFrame, *, log: Log, smoothing: float = 1.0) -> Cascade:
    """Fit the model to a LOG: of the impressions down to the first click, how many were clicked?

    Everything down to the first click was read, and what lies below it was not, so nothing is hidden and the maximum
    likelihood has this closed form (Chuklin et al. 2015, chapter 4). Clicks after the first are not looked at.
    smoothing: as in `fit_pbm`. log: called once, with the mean log-likelihood over the pages. Raises InputError as
    `check_log` does.
    """
    check_budget(1, smoothing)
    pages = Pages.of(check_log(clicks, "log"))
    first = pages.first_click()
    places = np.arange(len(pages.click))[:, None]
    read = pages.sums((places <= first).astype(np.float64))
    clicked = pages.sums((places == first).astype(np.float64))
    rate = clicked.sum() / read.sum()
    # A document that was never read, always below a click, has the prior's mean or, without a prior, the log's.
    total = read + smoothing
    attraction = np.where(total > 0, (clicked + smoothing * rate) / np.maximum(total, FLOOR), rate)
    parameters = pages.pairs.with_columns(
        attraction=pl.Series(attraction), impressions=pl.Series(pages.sums(np.ones(pages.click.shape)).astype(np.int64))
    )
    model = Cascade(parameters.sort("qid", "docid"))
    p = np.clip(np.broadcast_to(attraction[pages.pair], pages.shown.shape), FLOOR, 1 - FLOOR)
    terms = np.where(pages.shown & (places < first), np.log1p(-p), 0) + np.where(places == first, np.log(p), 0)
    log({"log_likelihood": float(terms.sum(axis=0).mean())}, 1)
    return model
