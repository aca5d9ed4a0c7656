"""The position-based model: a click takes a look at the position and an attractive document, independently.

P(C = 1 | document, position) = P(E = 1 | position) P(A = 1 | document), the examination hypothesis of Richardson,
Dominowska and Ragno, WWW 2007, and Craswell et al., WSDM 2008.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from rankers.clicks.log import check_counts
from rankers.clicks.pages import Pages
from rankers.clicks.protocol import FLOOR, looked_up
from rankers.protocol import Floats, Log
from retrieval.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PositionBased:
    """parameters: qid, docid, `attraction`, impressions; examination: by position, at most 1."""

    name: ClassVar[str] = "pbm"
    parameters: pl.DataFrame
    examination: dict[int, float]

    @property
    def shared(self) -> dict[str, float | list[float] | list[int]]:
        """The examination by position; see ClickModel.shared."""
        return {"positions": list(self.examination), "examination": list(self.examination.values())}

    def marginal(self, pages: Pages) -> Floats:
        """P(E) P(A); a position deeper than any seen is looked at as the deepest one was. See ClickModel.marginal."""
        positions = np.array(sorted(self.examination))
        by_position = np.array([self.examination[position] for position in positions])
        place = np.clip(np.searchsorted(positions, pages.position), 0, len(positions) - 1)
        probability: Floats = by_position[place] * looked_up(self.parameters, "attraction", pages)
        return probability

    def conditional(self, pages: Pages) -> Floats:
        """As `marginal`: the clicks of a page do not depend on each other in this model."""
        return self.marginal(pages)

    def relevance(self) -> pl.DataFrame:
        """The attraction of each pair; see ClickModel.relevance."""
        return self.parameters.select("qid", "docid", relevance=pl.col("attraction").cast(pl.Float32))

    def propensities(self) -> pl.DataFrame:
        """The examination as `position: Int32, propensity: Float32`, as rankers.clicks.labels takes them."""
        return pl.DataFrame(
            {"position": list(self.examination), "propensity": list(self.examination.values())},
            schema={"position": pl.Int32, "propensity": pl.Float32},
        )


def fit_pbm(
    counts: pl.DataFrame, *, log: Log, iterations: int = 500, tolerance: float = 1e-9, smoothing: float = 1.0
) -> PositionBased:
    """Fit the model to COUNTS (they are all that it depends on) by expectation maximisation.

    E-step, for an impression that was not clicked (Chuklin, Markov and de Rijke, Click Models for Web Search, 2015,
    chapter 4), e the examination of its position and a the attraction of its document:

        P(A = 1 | C = 0) = a (1 - e) / (1 - a e)        P(E = 1 | C = 0) = e (1 - a) / (1 - a e)

    and 1 for one that was; M-step: each parameter is the mean of its impressions' posteriors. smoothing: so many
    impressions of the log's mean click rate are added to each pair (a Beta prior; 0 for maximum likelihood).

    Only the product of the two is determined, so the largest examination is set to 1. And it takes documents seen at
    several positions: without any, a warning says so, and the result means nothing but the click rate.

    log: called with `log_likelihood`, the mean over impressions, each iteration; stops when it gains less than
    `tolerance`. Raises InputError as `check_counts` does.
    """
    check_counts(counts, "counts")
    check_budget(iterations, smoothing)
    sums = counts.group_by("qid", "docid", "position").agg(pl.col("impressions", "clicks").sum())
    pairs = sums.group_by("qid", "docid").agg(
        pl.col("impressions").sum(), positions=pl.col("position").n_unique()
    ).sort("qid", "docid").with_row_index("pair")  # fmt: skip
    if pairs["positions"].max() == 1:
        logger.warning("no document was shown at two positions: examination and attraction cannot be told apart; "
                       "exchange documents at random, or use the features of documents (regression-EM)")  # fmt: skip
    rows = sums.join(pairs.select("qid", "docid", "pair"), on=["qid", "docid"])
    pair = rows["pair"].to_numpy()
    position, place = np.unique(rows["position"].to_numpy(), return_inverse=True)
    shown, clicks = rows["impressions"].to_numpy().astype(np.float64), rows["clicks"].to_numpy().astype(np.float64)
    rate = clicks.sum() / shown.sum()
    by_pair, by_place = np.bincount(pair, shown) + smoothing, np.bincount(place, shown)
    attraction, examination = np.full(len(by_pair), 0.5), np.full(len(by_place), 0.5)
    before = -np.inf
    for iteration in range(1, iterations + 1):
        a, e = attraction[pair], examination[place]
        skipped = (shown - clicks) / np.maximum(1 - a * e, FLOOR)
        attraction = (np.bincount(pair, clicks + skipped * a * (1 - e)) + smoothing * rate) / by_pair
        examination = np.bincount(place, clicks + skipped * e * (1 - a)) / by_place
        now = _log_likelihood(attraction[pair] * examination[place], clicks, shown)
        log({"log_likelihood": now}, iteration)
        if now - before < tolerance:
            break
        before = now
    # Exchanging scale between the two changes no click's probability; above 1 neither is a probability.
    scale = max(examination.max(), FLOOR)
    parameters = pairs.select("qid", "docid", attraction=pl.Series(np.minimum(attraction * scale, 1.0)),
                              impressions="impressions")  # fmt: skip
    return PositionBased(parameters, dict(zip(position.tolist(), (examination / scale).tolist(), strict=True)))


def check_budget(iterations: int, smoothing: float) -> None:
    """Raise InputError unless there is an iteration to do and the smoothing is a finite number of impressions."""
    if iterations < 1:
        raise InputError(f"iterations must be at least 1; found {iterations}")
    if not 0 <= smoothing < float("inf"):
        raise InputError(f"smoothing must be a number of impressions of at least 0; found {smoothing}")


def _log_likelihood(p: Floats, clicks: Floats, shown: Floats) -> float:
    p = np.clip(p, FLOOR, 1 - FLOOR)
    return float((clicks * np.log(p) + (shown - clicks) * np.log1p(-p)).sum() / shown.sum())
