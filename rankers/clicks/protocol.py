"""What every click model is: probabilities of clicks on pages, and a relevance for each document that it has seen."""

from typing import ClassVar, Protocol

import numpy as np
import polars as pl

from rankers.clicks.pages import Pages
from rankers.protocol import Floats

FLOOR = 1e-6
"""No click, and no absence of one, is given less probability than this, or one impossible page would decide a mean."""


class ClickModel(Protocol):
    """A fitted click model. `parameters`: qid, docid and one Float64 column a parameter of a (query, document) pair."""

    name: ClassVar[str]

    @property
    def parameters(self) -> pl.DataFrame:
        """One row a pair seen in fitting: qid, docid, its parameters, and `impressions: Int64`."""
        ...

    @property
    def shared(self) -> dict[str, float | list[float] | list[int]]:
        """The parameters that all pairs share, as JSON holds them."""
        ...

    def marginal(self, pages: Pages) -> Floats:
        """The probability of a click at each place, knowing only what was shown, float64 [L, S]."""
        ...

    def conditional(self, pages: Pages) -> Floats:
        """The probability of a click at each place, knowing the clicks above it too, float64 [L, S]."""
        ...

    def relevance(self) -> pl.DataFrame:
        """Labels: qid, docid, `relevance: Float32` in [0, 1], for each pair seen in fitting."""
        ...


def looked_up(parameters: pl.DataFrame, column: str, pages: Pages) -> Floats:
    """The parameter `column` of the document at each place, float64 [L, S].

    A pair that was not seen in fitting has the mean of those that were, weighted by their impressions.
    """
    known = parameters.select("qid", "docid", column)
    found = pages.pairs.join(known, on=["qid", "docid"], how="left", maintain_order="left")[column].to_numpy()
    mean = np.average(parameters[column].to_numpy(), weights=parameters["impressions"].to_numpy())
    values: Floats = np.where(np.isnan(found), mean, found)[pages.pair]
    return values
