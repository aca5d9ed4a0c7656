"""Team-draft interleaving: fair, whole, and able to tell which ranking is better."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankers.clicks.interleave import Outcome, interleave, outcome, team_draft
from retrieval.errors import InputError
from retrieval.frames import ranked
from tests.rankers.clicks.worlds import log_of, shown

RANKINGS = st.permutations(list("abcdefgh")).flatmap(lambda p: st.integers(0, 8).map(lambda n: p[:n]))


@given(a=RANKINGS, b=RANKINGS, length=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_a_draft_is_whole_and_fair(a: list[str], b: list[str], length: int, seed: int) -> None:
    merged, teams = team_draft(a, b, length, np.random.default_rng(seed))
    assert len(merged) == len(teams) == min(length, len({*a, *b}))
    assert len(set(merged)) == len(merged)
    for place, (docid, team) in enumerate(zip(merged, teams, strict=True)):
        mine = a if team == "a" else b
        free = [each for each in mine if each not in merged[:place]]
        assert docid == free[0]  # the best that this team has left
        left = {"a": set(a) - set(merged[:place]), "b": set(b) - set(merged[:place])}
        if left["a"] and left["b"]:
            assert abs(teams[:place].count("a") - teams[:place].count("b")) <= 1


@given(a=RANKINGS, length=st.integers(1, 8), seed=st.integers(0, 1000))
def test_equal_rankings_come_out_unchanged(a: list[str], length: int, seed: int) -> None:
    merged, _ = team_draft(a, a, length, np.random.default_rng(seed))
    assert merged == a[:length]


def test_the_coin_is_fair_at_every_place() -> None:
    rng = np.random.default_rng(0)
    teams = np.array([[team == "a" for team in team_draft("abcd", "dcba", 4, rng)[1]] for _ in range(4000)])
    assert np.abs(teams.mean(axis=0) - 0.5).max() < 0.04
    assert (teams.sum(axis=1) == 2).all()


WORLD = shown(30, 10, seed=1)
GOOD = ranked(WORLD.select("qid", "docid", score=pl.col("attraction").cast(pl.Float32)))
BAD = ranked(WORLD.select("qid", "docid", score=-pl.col("attraction").cast(pl.Float32)))


def clicked(a: pl.DataFrame, b: pl.DataFrame, pages: int, seed: int) -> pl.DataFrame:
    """An interleaved LOG with `team`: each session sees the drafts of all queries, and clicks by examination and
    attraction."""
    drafts = [
        interleave(a, b, length=5, seed=seed + page).with_columns(session=pl.lit(f"s{page}")) for page in range(pages)
    ]
    rows = pl.concat(drafts).join(WORLD.select("docid", "attraction"), on="docid", maintain_order="left")
    chance = (rows["attraction"] / rows["position"]).to_numpy()
    return rows.with_columns(click=pl.Series(np.random.default_rng(seed).random(len(chance)) < chance))


def test_the_better_ranking_wins() -> None:
    found = outcome(clicked(GOOD, BAD, 10, seed=1))
    assert found.p_value < 1e-3
    assert found.preference > 0.6
    assert outcome(clicked(BAD, GOOD, 10, seed=1)).preference < 0.4


def test_equal_rankings_are_seldom_told_apart() -> None:
    p_values = [outcome(clicked(GOOD, GOOD, 2, seed=1000 * seed)).p_value for seed in range(60)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.12


def test_credit_by_hand() -> None:
    log = log_of(("q", "abc", "110"), ("q", "abc", "001"), ("q", "abc", "101"), ("q", "abc", "000"))
    log = log.with_columns(team=pl.Series(["a", "a", "b"] * 4))
    assert outcome(log) == Outcome(1, 1, 2, 1.0)
    assert outcome(log).preference == 0.5
    assert outcome(
        pl.concat([log.head(3).with_columns(session=pl.lit(f"t{i}")) for i in range(6)])
    ).p_value == pytest.approx(2 / 64)
    assert outcome(log.with_columns(click=False)) == Outcome(0, 0, 4, 1.0)


def test_a_seed_gives_one_draft_whatever_else_is_asked() -> None:
    whole = interleave(GOOD, BAD, seed=7)
    assert whole.equals(interleave(GOOD, BAD, seed=7))
    assert not whole.equals(interleave(GOOD, BAD, seed=8))
    alone = interleave(*(run.filter(pl.col("qid") == "q003") for run in (GOOD, BAD)), seed=7)
    assert whole.filter(pl.col("qid") == "q003").equals(alone)
    only = interleave(GOOD.filter(pl.col("qid") == "q001"), BAD.clear(), length=3)
    assert only["team"].to_list() == ["a"] * 3


def test_wrong_rankings_and_teams_are_refused() -> None:
    with pytest.raises(InputError, match="length"):
        team_draft("ab", "ba", 0, np.random.default_rng(0))
    with pytest.raises(InputError, match="ranking b holds a document twice"):
        team_draft("ab", "bb", 2, np.random.default_rng(0))
    log = log_of(("q", "ab", "10"))
    with pytest.raises(InputError, match="team must be"):
        outcome(log.with_columns(team=pl.lit("c")))
    with pytest.raises(InputError, match="needs the columns team"):
        outcome(log)
