"""The simulated users do what their models say, and the two ways to simulate agree."""

import numpy as np
import polars as pl
import pytest

from rankers.clicks.log import check_counts, check_log, counts
from rankers.clicks.simulate import shown_by, simulate, simulate_counts
from rankers.clicks.users import CascadeUser, DynamicBayesianUser, PositionBasedUser
from retrieval.errors import InputError
from tests.rankers.clicks.worlds import shown

WORLD = shown(4, 5, seed=3)
N = 200_000


def rates(log: pl.DataFrame) -> np.ndarray:
    """Click rate of each document of WORLD in its order; without swaps each has one position."""
    rate = log.group_by("docid").agg(pl.col("click").mean())
    return WORLD.join(rate, on="docid", how="left", maintain_order="left")["click"].to_numpy()


def expected(name: str) -> np.ndarray:
    """The same by each model's formula, page by page."""
    found = []
    for a in WORLD["attraction"].to_numpy().reshape(4, 5):
        match name:
            case "pbm":
                found.append(a / np.arange(1, 6))
            case "cascade":
                found.append(a * np.append(1, np.cumprod(1 - a)[:-1]))
            case "dbn":
                found.append(a * np.append(1, np.cumprod(0.8 * (1 - a * 0.6 * a))[:-1]))
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("name", "user"),
    [("pbm", PositionBasedUser(1.0)), ("cascade", CascadeUser()), ("dbn", DynamicBayesianUser(0.8, 0.6))],
)
def test_click_rates_are_the_models(name: str, user) -> None:
    log = simulate(WORLD, user, sessions=N, seed=1)
    check_log(log, "simulated")
    error = np.sqrt(0.25 / (N / 4))
    np.testing.assert_allclose(rates(log), expected(name), atol=5 * error)
    if name == "cascade":
        assert log.group_by("session").agg(pl.col("click").sum())["click"].max() == 1


def test_a_seed_gives_one_log_and_another_gives_another() -> None:
    logs = [simulate(WORLD, CascadeUser(), sessions=50, seed=seed, swap=0.5) for seed in (1, 1, 2)]
    assert logs[0].equals(logs[1])
    assert not logs[0].equals(logs[2])
    sums = [simulate_counts(WORLD, PositionBasedUser(), clicks=500, seed=seed, swap=0.5) for seed in (1, 1, 2)]
    assert sums[0].equals(sums[1])
    assert not sums[0].equals(sums[2])


def test_swaps_exchange_the_top_with_a_uniform_position() -> None:
    log = simulate(WORLD, PositionBasedUser(), sessions=N, seed=4, swap=0.4)
    top = WORLD.filter(pl.col("position") == 1)["docid"].implode()
    tops = log.filter(pl.col("docid").is_in(top)).group_by("position").len().sort("position")
    shares = (tops["len"] / tops["len"].sum()).to_list()
    assert shares == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.1], abs=0.005)
    # Whoever is on top instead comes from the place that the top went to: the rest of the page stands still.
    moved = log.join(WORLD.select("docid", home="position"), on="docid").filter(pl.col("position") != pl.col("home"))
    assert moved.group_by("session").len()["len"].unique().to_list() == [2]


def test_counts_are_distributed_as_a_log_is() -> None:
    user = PositionBasedUser(1.0)
    log = simulate(WORLD, user, sessions=N, seed=4, swap=0.4)
    clicks = int(log["click"].sum())
    sums = check_counts(simulate_counts(WORLD, user, clicks=clicks, seed=9, swap=0.4), "simulated")
    both = counts(log).join(sums, on=["qid", "docid", "position"], how="full", suffix="_other")
    assert both.null_count().sum_horizontal().item() == 0
    impressions, other = both["impressions"].to_numpy(), both["impressions_other"].to_numpy()
    assert (np.abs(impressions - other) < 6 * np.sqrt(impressions + other)).all()
    p = (both["clicks"] + both["clicks_other"]).to_numpy() / (impressions + other)
    gap = both["clicks"].to_numpy() / impressions - both["clicks_other"].to_numpy() / other
    assert (np.abs(gap) < 5 * np.sqrt(p * (1 - p) * (1 / impressions + 1 / other)) + 1e-12).all()
    assert abs(sums["clicks"].sum() - clicks) < 6 * np.sqrt(clicks)
    pages = sums.group_by("qid").agg(pl.col("impressions").sum())["impressions"]
    assert pages.to_list() == [5 * n // 5 for n in pages]


def test_every_page_of_counts_is_whole() -> None:
    sums = simulate_counts(WORLD, PositionBasedUser(), clicks=1000, seed=2, swap=0.7)
    by_document = sums.group_by("qid", "docid").agg(pl.col("impressions").sum())
    by_position = sums.group_by("qid", "position").agg(pl.col("impressions").sum())
    assert (by_document.group_by("qid").agg(pl.col("impressions").n_unique())["impressions"] == 1).all()
    assert (by_position.group_by("qid").agg(pl.col("impressions").n_unique())["impressions"] == 1).all()


def test_attraction_comes_from_grades() -> None:
    judged = pl.DataFrame(
        {"qid": ["q"] * 4, "docid": list("abcd"), "relevance": pl.Series([0, 1, 2, -1], dtype=pl.Int32)}
    )
    scores = judged.select("qid", "docid", score=pl.Series([1, 4, 2, 3], dtype=pl.Float32))
    found = shown_by(scores, judged, noise=0.1)
    assert found["docid"].to_list() == ["b", "d", "c", "a"]
    assert found["attraction"].to_list() == pytest.approx([0.4, 0.1, 1.0, 0.1])
    assert shown_by(scores, judged, depth=2)["docid"].to_list() == ["b", "d"]


def test_queries_of_one_document_are_shown_and_never_swapped() -> None:
    world = pl.DataFrame(
        {"qid": ["q"], "docid": ["a"], "position": pl.Series([1], dtype=pl.Int32), "attraction": [1.0]}
    )
    assert simulate(world, CascadeUser(), sessions=3, swap=1.0)["click"].all()
    assert simulate_counts(world, PositionBasedUser(), clicks=7, swap=1.0).row(0)[2:] == (1, 7, 7)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: simulate(WORLD, CascadeUser(), sessions=0), "sessions"),
        (lambda: simulate(WORLD, CascadeUser(), sessions=5, swap=1.5), "swap"),
        (lambda: simulate(WORLD.clear(), CascadeUser(), sessions=5), "hold no document"),
        (lambda: simulate(WORLD.with_columns(attraction=pl.lit(1.5)), CascadeUser(), sessions=5), "attraction"),
        (lambda: simulate(WORLD.filter(pl.col("position") != 2), CascadeUser(), sessions=5), "without a gap"),
        (lambda: simulate_counts(WORLD, PositionBasedUser(), clicks=0), "clicks must be"),
        (lambda: PositionBasedUser(-1.0), "eta"),
        (lambda: DynamicBayesianUser(continuation=1.5), "continuation"),
    ],
)
def test_wrong_worlds_are_refused(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
