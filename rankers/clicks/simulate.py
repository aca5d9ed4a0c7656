"""Click logs made from judgements: a logging ranking is shown, a simulated user clicks. Seeded, no loop over sessions.

Simulation is how a method that removes bias is tested: the truth that it must find again is known.
"""

import numpy as np
import polars as pl

from rankers.clicks.log import COUNTS, LOG
from rankers.clicks.users import PositionBasedUser, User
from rankers.protocol import Floats
from retrieval.errors import InputError
from retrieval.frames import QRELS, SCORED, Schema, check, ranked

SHOWN: Schema = {"qid": pl.String, "docid": pl.String, "position": pl.Int32, "attraction": pl.Float64}
"""What the simulators show: the logging ranking with the probability that each document, examined, is clicked."""


def shown_by(
    scores: pl.DataFrame, judged: pl.DataFrame, *, noise: float = 0.1, depth: int | None = None
) -> pl.DataFrame:
    """The ranking by `scores` (SCORED) of `judged` documents (QRELS) as SHOWN, at most `depth` a query.

    attraction = noise + (1 - noise) (2^grade - 1) / (2^top - 1), top the highest grade of all: the clicks of Ai et al.,
    SIGIR 2018, with the satisfaction of ERR (Chapelle et al. 2009); an irrelevant document that is
    examined is clicked with probability `noise`. Raises InputError for a noise outside [0, 1), and as `ranked` does.
    """
    if not 0 <= noise < 1:
        raise InputError(f"noise is a probability of at least 0 and below 1; found {noise}")
    check(judged, QRELS, "judged documents")
    check(scores, SCORED, "logging scores")
    run = ranked(scores.select("qid", "docid", "score"), depth)
    gain = pl.lit(2.0).pow(pl.col("relevance").clip(lower_bound=0)) - 1
    top = max(judged.select(gain.max()).item() or 0.0, 1.0)
    worth = judged.select("qid", "docid", attraction=noise + (1 - noise) * gain / top)
    shown = run.join(worth, on=["qid", "docid"], how="left", maintain_order="left").with_columns(
        pl.col("attraction").fill_null(noise)
    )
    return shown.select("qid", "docid", pl.col("rank").alias("position"), "attraction")


def simulate(shown: pl.DataFrame, user: User, *, sessions: int, seed: int = 0, swap: float = 0.0) -> pl.DataFrame:
    """A LOG of `sessions` pages: each a query of SHOWN drawn uniformly, its ranking shown, `user` clicking.

    swap: in this share of sessions the top document changes places with that of a position drawn uniformly from those
    below (the intervention of Joachims, Swaminathan and Schnabel, WSDM 2017). The same seed gives the
    same log. Raises InputError for a share outside [0, 1] and fewer than 1 session.
    """
    table = _Table(shown)
    if sessions < 1:
        raise InputError(f"sessions must be at least 1; found {sessions}")
    rng = np.random.default_rng(seed)
    query = rng.integers(0, len(table.sizes), sessions)
    row, there = table.rows(query)
    for_top = _swapped_with(table.sizes[query], _share(swap), rng)
    moved = np.flatnonzero(for_top)
    row[0, moved], row[for_top[moved], moved] = row[for_top[moved], moved], row[0, moved]
    click = user.clicks(np.where(there, table.attraction[row], 0.0), there, rng)
    place, page = np.nonzero(there.T)[::-1]
    rows = table.frame[row[place, page]]
    return rows.select(
        "qid",
        "docid",
        position=pl.Series(place + 1, dtype=pl.Int32),
        click=pl.Series(click[place, page]),
        session=pl.Series(page).cast(pl.String),
    ).select(*LOG)


def simulate_counts(
    shown: pl.DataFrame, user: PositionBasedUser, *, clicks: int, seed: int = 0, swap: float = 0.0
) -> pl.DataFrame:
    """COUNTS of as many sessions as bring `clicks` clicks in expectation, from a position-based user.

    Its clicks are independent, so the sums of a log are drawn as binomial counts, exactly as they would be distributed
    in the log of `simulate` (swap: as there), and a million clicks take a fraction of a second. Raises InputError as
    `simulate` does.
    """
    table = _Table(shown)
    if clicks < 1:
        raise InputError(f"clicks must be at least 1; found {clicks}")
    rng = np.random.default_rng(seed)
    examination = user.examination(int(table.sizes.max()))
    place = np.arange(len(table.attraction)) - np.repeat(table.starts, table.sizes)
    page_clicks = np.add.reduceat(table.attraction * examination[place], table.starts)
    sessions = max(1, round(clicks / float(page_clicks.mean())))
    pages = rng.multinomial(sessions, np.full(len(table.sizes), 1 / len(table.sizes)))
    # How often each row below the top changed places with the top: the query's swaps, shared out uniformly.
    below = place > 0
    chance = np.where(below, 1 / np.maximum(np.repeat(table.sizes, table.sizes) - 1, 1), 0.0)
    swaps = rng.binomial(np.where(table.sizes > 1, pages, 0), _share(swap))
    moved = _shared_out(swaps, chance, table.starts, table.sizes, rng)
    at_home = np.repeat(pages, table.sizes) - moved
    at_home[table.starts] -= np.add.reduceat(moved, table.starts)
    top = np.repeat(table.starts, table.sizes)
    parts = [
        (np.arange(len(place)), place, at_home),
        (np.flatnonzero(below), np.zeros(int(below.sum()), dtype=np.int64), moved[below]),
        (top[below], place[below], moved[below]),
    ]
    row, at, impressions = (np.concatenate(column) for column in zip(*parts, strict=True))
    clicked = rng.binomial(impressions, np.minimum(table.attraction[row] * examination[at], 1.0))
    sums = table.frame[row].with_columns(
        position=pl.Series(at + 1, dtype=pl.Int32), impressions=pl.Series(impressions), clicks=pl.Series(clicked)
    )
    return sums.filter(pl.col("impressions") > 0).select(*COUNTS).sort("qid", "docid", "position")


class _Table:
    """SHOWN as arrays: `frame` (qid, docid) in order of query and position, attraction [n], starts and sizes [Q]."""

    def __init__(self, shown: pl.DataFrame) -> None:
        check(shown, SHOWN, "shown rankings")
        if shown.is_empty():
            raise InputError("shown rankings: hold no document; at least one is needed")
        if not shown["attraction"].is_between(0, 1).all():
            raise InputError("shown rankings: an attraction lies outside [0, 1] or is NaN")
        ordered = shown.sort("qid", "position")
        self.frame = ordered.select("qid", "docid")
        self.attraction: Floats = ordered["attraction"].to_numpy()
        self.sizes = ordered["qid"].rle().struct.field("len").to_numpy().astype(np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        expected = np.arange(ordered.height) - np.repeat(self.starts, self.sizes) + 1
        if (ordered["position"].to_numpy() != expected).any():
            raise InputError("shown rankings: the positions of a query must be 1, 2, 3 … without a gap")

    def rows(
        self, query: np.typing.NDArray[np.int64]
    ) -> tuple[np.typing.NDArray[np.int64], np.typing.NDArray[np.bool_]]:
        """Which row of `frame` stands at each place of pages of these queries [S], and whether one does: [L, S]."""
        places = np.arange(int(self.sizes.max()))[:, None]
        there = places < self.sizes[query]
        return np.where(there, self.starts[query] + places, 0), there


def _swapped_with(
    sizes: np.typing.NDArray[np.int64], share: float, rng: np.random.Generator
) -> np.typing.NDArray[np.int64]:
    """The place below the top that each page's top changes with, 0 for none: int64 [S]."""
    swapped = (rng.random(len(sizes)) < share) & (sizes > 1)
    return np.where(swapped, 1 + rng.integers(0, np.maximum(sizes - 1, 1)), 0)


def _shared_out(
    total: np.typing.NDArray[np.int64],
    chance: Floats,
    starts: np.typing.NDArray[np.int64],
    sizes: np.typing.NDArray[np.int64],
    rng: np.random.Generator,
) -> np.typing.NDArray[np.int64]:
    """Multinomial counts: `total` [Q] shared out over each query's rows by their `chance` [n], which sums to 1."""
    out = np.zeros(len(chance), dtype=np.int64)
    for query in np.flatnonzero(total):
        rows = slice(starts[query], starts[query] + sizes[query])
        out[rows] = rng.multinomial(total[query], chance[rows])
    return out


def _share(swap: float) -> float:
    if not 0 <= swap <= 1:
        raise InputError(f"swap is a share of sessions between 0 and 1; found {swap}")
    return swap
