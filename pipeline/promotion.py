"""When does a system replace the champion? Decided on validation queries alone; tracking keeps the outcome."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import polars as pl

from retrieval.metrics import Blank, fill_blank
from retrieval.significance import randomisation_test

Status: TypeAlias = Literal["champion", "challenger", "unchanged"]

DECIDING = "ndcg_cut_10"
LEVEL = 0.05


@dataclass(frozen=True)
class Promotion:
    """What became of the system that a run put forward.

    champion: the name of the system that is champion now.
    status: `champion` when the system put forward is the first or replaced the champion, `challenger` when it did not,
        `unchanged` when it is the champion already.
    model, version: where the registry keeps the system put forward.
    previous: the name of the champion before this decision, None at first.
    p_value, difference: of the test on the validation queries, None where there was none.
    reason: one line for people.
    """

    champion: str
    status: Status
    model: str
    version: str
    previous: str | None
    p_value: float | None
    difference: float | None
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger is better than the champion, by how much, and in words."""

    better: bool
    difference: float | None
    p_value: float | None
    words: str


def judge(
    challenger: pl.DataFrame | None, champion: pl.DataFrame | None, blank: Blank, metric: str = DECIDING
) -> Verdict:
    """Compare two systems' figures a validation query (qid, a column a metric), None where a system has none.

    Better means: a higher mean, and p < .05 in the two-sided paired randomisation test, the one that leaderboards
    print. That is stricter than a one-sided test, as suits a rule that is applied anew at every run. Queries are
    matched by qid; different queries cannot be compared, and then the champion stays.
    """
    if challenger is None or champion is None:
        return Verdict(False, None, None, "there are no validation figures to compare them by")
    if metric not in challenger.columns or metric not in champion.columns:
        return Verdict(False, None, None, f"there are no validation figures of {metric} to compare them by")
    ours, theirs = (fill_blank(figures.select("qid", metric), blank).sort("qid") for figures in (challenger, champion))
    if ours["qid"].to_list() != theirs["qid"].to_list():
        return Verdict(False, None, None, "they were judged on different validation queries")
    # A query with nothing relevant is null for both under `skip`.
    differences = (ours[metric] - theirs[metric]).drop_nulls()
    if differences.is_empty():
        return Verdict(False, None, None, "no validation query has a relevant document")
    difference, p_value = float(differences.to_numpy().mean()), randomisation_test(differences.to_numpy())
    words = f"{difference:+.4f} {metric} over {differences.len()} validation queries, p = {p_value:.2g}"
    return Verdict(difference > 0 and p_value < LEVEL, difference, p_value, words)
