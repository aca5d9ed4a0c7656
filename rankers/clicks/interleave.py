"""Team-draft interleaving: two rankings compared by the clicks on one merged list.

Radlinski, Kurup and Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008. Two captains pick in
turn, a coin deciding who goes first in each round; whoever's documents are clicked more wins the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import polars as pl
from scipy.stats import binomtest

from rankers.clicks.log import check_log
from retrieval.errors import InputError
from retrieval.frames import RUN, Schema, check

Team: TypeAlias = Literal["a", "b"]

INTERLEAVED: Schema = {"qid": pl.String, "docid": pl.String, "position": pl.Int32, "team": pl.String}


def team_draft(
    a: Sequence[str], b: Sequence[str], length: int, rng: np.random.Generator
) -> tuple[list[str], list[Team]]:
    """Merge the rankings `a` and `b`, best first, into at most `length` documents and the team of each.

    The team with fewer picks goes next, at equal numbers a fair coin says which; it picks its highest document that is
    not in yet. A team with nothing left leaves the rest of the draft to the other. Raises InputError for a length
    below 1 and a document twice in a ranking.
    """
    if length < 1:
        raise InputError(f"the length of an interleaved list must be at least 1; found {length}")
    for name, ranking in (("a", a), ("b", b)):
        if len(set(ranking)) < len(ranking):
            raise InputError(f"ranking {name} holds a document twice; once is right")
    left: dict[Team, list[str]] = {"a": list(reversed(a)), "b": list(reversed(b))}
    merged: list[str] = []
    teams: list[Team] = []
    taken: set[str] = set()
    while len(merged) < length:
        for ranking in left.values():
            while ranking and ranking[-1] in taken:
                ranking.pop()
        if not left["a"] and not left["b"]:
            break
        ahead = teams.count("a") - teams.count("b")
        team: Team = "a" if ahead < 0 or (ahead == 0 and rng.random() < 0.5) else "b"
        if not left[team]:
            team = "b" if team == "a" else "a"
        merged.append(left[team].pop())
        teams.append(team)
        taken.add(merged[-1])
    return merged, teams


def interleave(a: pl.DataFrame, b: pl.DataFrame, *, length: int = 10, seed: int = 0) -> pl.DataFrame:
    """Interleave two RUNs, query by query: INTERLEAVED (qid, docid, position from 1, team "a" or "b").

    A query that only one of them answers has that one's ranking, all of one team. Each query has its own coins, drawn
    from `seed` and its qid: the same seed gives the same lists, whatever other queries are asked. A session needs a
    seed of its own, or the coins would favour one team there for good. Raises InputError as `team_draft` does.
    """
    rankings = [_by_query(run, name) for run, name in ((a, "a"), (b, "b"))]
    rows: list[tuple[str, str, int, str]] = []
    for qid in dict.fromkeys([*rankings[0], *rankings[1]]):
        coins = np.random.default_rng([seed, *qid.encode()])
        merged, teams = team_draft(rankings[0].get(qid, []), rankings[1].get(qid, []), length, coins)
        rows += [(qid, docid, place, team) for place, (docid, team) in enumerate(zip(merged, teams, strict=True), 1)]
    return pl.DataFrame(rows, schema=INTERLEAVED, orient="row")


@dataclass(frozen=True)
class Outcome:
    """Pages won by each team, and tied; p_value: of the two-sided sign test; `preference`: a's share of wins."""

    wins_a: int
    wins_b: int
    ties: int
    p_value: float

    @property
    def preference(self) -> float:
        """(wins of a + half the ties) / pages: above one half favours a."""
        return (self.wins_a + self.ties / 2) / (self.wins_a + self.wins_b + self.ties)


def outcome(log: pl.DataFrame) -> Outcome:
    """Credit the clicks of an interleaved LOG, with a column `team` ("a" or "b"), and test whether one team is better.

    A page goes to the team with more clicked documents on it; equal numbers, none included, tie. Under the null
    hypothesis each team wins an untied page with probability one half: the two-sided binomial sign test, ties left
    out. Raises InputError as `check_log` does and for a team other than a and b.
    """
    checked = check(check_log(log, "interleaved log"), {"team": pl.String}, "interleaved log")
    if not checked["team"].is_in(["a", "b"]).all():
        raise InputError('interleaved log: team must be "a" or "b"')
    lead = pl.col("click").cast(pl.Int32) * pl.when(pl.col("team") == "a").then(1).otherwise(-1)
    leads = checked.group_by("session", "qid").agg(lead=lead.sum())["lead"]
    wins_a, wins_b = int((leads > 0).sum()), int((leads < 0).sum())
    decided = wins_a + wins_b
    p_value = float(binomtest(wins_a, decided).pvalue) if decided else 1.0
    return Outcome(wins_a, wins_b, len(leads) - decided, p_value)


def _by_query(run: pl.DataFrame, name: str) -> dict[str, list[str]]:
    ordered = check(run, RUN, f"run {name}").sort("rank")
    grouped = ordered.group_by("qid", maintain_order=True).agg("docid")
    return dict(grouped.iter_rows())
