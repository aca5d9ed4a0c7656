"""A log as arrays: a page a column, a row a place from the top, so that a model walks all pages down at once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from rankers.protocol import Floats
from retrieval.frames import PAIRS

Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pages:
    """L places (the longest page) by S pages. What a page does not have stands as pair 0, position 0, no click.

    pairs: the distinct (qid, docid), P rows; pair: int32 [L, S], the row there; position: int32 [L, S], as shown, from
    1, rising down a page; click, shown: bool [L, S]. A position that the log skips is no place: who looks at 1 and then
    at 3 looks at two places.
    """

    pairs: pl.DataFrame
    pair: Ints
    position: Ints
    click: Bools
    shown: Bools

    @classmethod
    def of(cls, log: pl.DataFrame) -> "Pages":
        """Take a checked LOG apart."""
        rows = log.select("session", *PAIRS, "position", "click").sort("session", "qid", "position")
        pairs = rows.select(*PAIRS).unique(maintain_order=True).with_row_index("pair")
        page, place, shape = _places(rows)
        found = rows.join(pairs, on=["qid", "docid"], how="left", maintain_order="left")

        pair, position = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
        click, shown = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
        pair[place, page] = found["pair"].to_numpy()
        position[place, page] = found["position"].to_numpy()
        click[place, page] = found["click"].to_numpy()
        shown[place, page] = True
        return cls(pairs.drop("pair"), pair, position, click, shown)

    def sums(self, values: Floats) -> Floats:
        """The sum of `values` [L, S] over the places where each pair was shown, float64 [P]."""
        return np.bincount(self.pair[self.shown], values[self.shown], minlength=self.pairs.height).astype(np.float64)

    def last_click(self) -> Ints:
        """The place of each page's last click, int [S]; -1 on a page without one."""
        places = np.arange(len(self.click))[:, None]
        last: Ints = np.where(self.click, places, -1).max(axis=0)
        return last

    def first_click(self) -> Ints:
        """The place of each page's first click, int [S]; L on a page without one."""
        places = np.arange(len(self.click))[:, None]
        first: Ints = np.where(self.click, places, len(self.click)).min(axis=0)
        return first


def _places(rows: pl.DataFrame) -> tuple[Ints, Ints, tuple[int, int]]:
    """Of rows sorted by session, qid and position: the page and the place of each, and the shape (L, S)."""
    new = (pl.col("session") != pl.col("session").shift()) | (pl.col("qid") != pl.col("qid").shift())
    starts = np.flatnonzero(rows.select(new.fill_null(True)).to_series().to_numpy())
    sizes = np.diff(np.append(starts, rows.height))
    page = np.repeat(np.arange(len(starts)), sizes)
    place = np.arange(rows.height) - np.repeat(starts, sizes)
    return page, place, (int(sizes.max()), len(starts))
