"""Off-policy estimates against values that are known: unbiased, with intervals that cover."""

import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from rankers.clicks.bandit import packaged_folder, policy_of, policy_units, read_bandit_log
from rankers.clicks.offpolicy import Units, bandit_units, doubly_robust, estimates, ips, of, snips
from rankers.clicks.propensity import PROPENSITIES
from rankers.clicks.simulate import simulate
from rankers.clicks.slate_value import ranking_units, support
from rankers.clicks.users import CascadeUser, PositionBasedUser
from retrieval.errors import InputError
from retrieval.frames import ranked
from tests.rankers.clicks.worlds import log_of, shown

REPEATS = 200


def covers(found: list, truth: float) -> bool:
    """Are so many of the 95 % intervals around the truth that 1 in 10,000 honest estimators would do no better?"""
    hits = sum(each.low <= truth <= each.high for each in found)
    return hits >= binom.ppf(1e-4, len(found), 0.95)


def unbiased(found: list, truth: float) -> bool:
    values = np.array([each.value for each in found])
    return bool(abs(values.mean() - truth) < 4 * values.std(ddof=1) / np.sqrt(len(values)))


def bandit_logs(n: int = 500):
    """Logs of a bandit with two contexts and three actions: its units under a new policy, and that policy's value."""
    logging, policy = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]), np.array([[0.1, 0.4, 0.5], [0.3, 0.6, 0.1]])
    reward = np.array([[0.2, 0.5, 0.7], [0.4, 0.1, 0.3]])
    model = reward + np.array([[0.1, -0.1, 0.1], [0.0, 0.1, -0.1]])  # wrong, as models are
    rng = np.random.default_rng(0)
    for _ in range(REPEATS):
        context = rng.integers(0, 2, n)
        action = (rng.random(n)[:, None] > logging[context].cumsum(axis=1)).sum(axis=1).clip(0, 2)
        weights = policy[context, action] / logging[context, action]
        clicks = rng.random(n) < reward[context, action]
        yield bandit_units(weights, clicks.astype(float), expected_logged=model[context, action],
                           expected_policy=(policy * model).sum(axis=1)[context])  # fmt: skip


VALUE = float(np.mean(([0.1 * 0.2 + 0.4 * 0.5 + 0.5 * 0.7], [0.3 * 0.4 + 0.6 * 0.1 + 0.1 * 0.3])))


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_a_bandits_value_is_found(name: str) -> None:
    found = [of(name, estimates(units)) for units in bandit_logs()]
    assert unbiased(found, VALUE)
    assert covers(found, VALUE)


def test_a_model_narrows_the_interval() -> None:
    widths = {name: np.mean([e.high - e.low for e in (of(name, estimates(u)) for u in bandit_logs())])
              for name in ("ips", "snips", "dr")}  # fmt: skip
    assert widths["dr"] < widths["snips"] < widths["ips"]


def test_estimates_by_hand() -> None:
    weights, clicks, model = np.array([2.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0]), np.full(3, 0.5)
    units = bandit_units(weights, clicks, expected_logged=model, expected_policy=np.full(3, 0.6))
    assert ips(units).value == pytest.approx(2 / 3)
    assert snips(units).value == pytest.approx(2 / 3)
    assert doubly_robust(units).value == pytest.approx(0.6 + (2 * 0.5 + 0 - 0.5) / 3)
    assert ips(units).effective == pytest.approx(9 / 5)
    clipped = bandit_units(np.array([4.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0]), clip=2.0)
    assert ips(clipped).value == pytest.approx(2 / 3)
    uneven = bandit_units(np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]))
    assert (ips(uneven).value, snips(uneven).value) == pytest.approx((1 / 3, 1 / 2))
    assert snips(bandit_units(np.zeros(3), np.ones(3))).value == 0


def test_the_same_policy_earns_what_it_earned() -> None:
    rewards = np.random.default_rng(1).random(100)
    for estimate in estimates(bandit_units(np.ones(100), rewards)):
        assert estimate.value == pytest.approx(rewards.mean())
        assert estimate.effective == pytest.approx(100)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: bandit_units(np.array([-1.0, 1.0]), np.ones(2)), "at least 0"),
        (lambda: bandit_units(np.array([np.nan, 1.0]), np.ones(2)), "NaN"),
        (lambda: bandit_units(np.ones(1), np.ones(1)), "at least 2 units"),
        (lambda: Units(np.ones(2), np.ones(3), np.ones(2)), "one number a unit"),
        (lambda: bandit_units(np.ones(2), np.ones(3)), "one weight a reward"),
        (lambda: bandit_units(np.ones(2), np.ones(2), expected_logged=np.ones(2)), "or for neither"),
        (lambda: doubly_robust(Units(np.ones(2), np.ones(2), np.ones(2))), "needs a model"),
        (lambda: ips(Units(np.ones(2), np.ones(2), np.ones(2)), level=1.0), "level"),
        (lambda: of("dm", estimates(bandit_units(np.ones(2), np.ones(2)))), "no estimate 'dm'"),
    ],
)
def test_what_cannot_be_estimated_is_refused(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


WORLD = shown(8, 4, seed=5)
NEW = ranked(WORLD.select("qid", "docid", score=pl.col("attraction").cast(pl.Float32)))
EXAMINED = pl.DataFrame(
    {"position": range(1, 5), "propensity": PositionBasedUser().examination(4)}, schema=PROPENSITIES
)


def new_value(k: int = 10) -> float:
    """Clicks a page that a position-based user gives NEW."""
    both = NEW.filter(pl.col("rank") <= k).join(WORLD, on=["qid", "docid"])
    return float((both["attraction"] / both["rank"]).sum() / 8)


@pytest.mark.parametrize("k", [2, 10])
def test_a_rankings_value_is_found_by_position(k: int) -> None:
    rough = WORLD.select("qid", "docid", relevance=(pl.col("attraction") * 0.8).cast(pl.Float32))
    runs = []
    for seed in range(100):
        log = simulate(WORLD, PositionBasedUser(), sessions=600, seed=seed, swap=0.3)
        units = ranking_units(log, NEW, assume="position", propensities=EXAMINED, relevance=rough, k=k)
        runs.append(estimates(units))
    for name in ("ips", "snips", "dr"):
        found = [of(name, each) for each in runs]
        assert unbiased(found, new_value(k))
        assert covers(found, new_value(k))


def shuffled_log(pages: int, seed: int) -> pl.DataFrame:
    """A LOG of pages whose order was drawn anew for each, uniformly."""
    copies = pl.DataFrame({"copy": range(pages)}).join(WORLD.drop("position"), how="cross")
    orders = copies.with_columns(pl.format("{}-{}", "qid", "copy").alias("qid")).sample(
        fraction=1.0, shuffle=True, seed=seed
    )
    place = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("qid")
    log = simulate(orders.with_columns(position=place), PositionBasedUser(), sessions=8 * pages, seed=seed)
    return log.with_columns(pl.col("qid").str.split("-").list.first())


def test_a_rankings_value_is_found_by_item_and_position() -> None:
    """With every order equally likely, which supports any ranking; no examination is given to it."""
    runs = []
    for seed in range(60):
        log = shuffled_log(100, seed)
        assert support(log, NEW, assume="item_position") > 0.99
        runs.append(estimates(ranking_units(log, NEW, assume="item_position")))
    for name in ("ips", "snips"):
        found = [of(name, each) for each in runs]
        assert unbiased(found, new_value())
        assert covers(found, new_value())


def test_the_logged_ranking_is_worth_what_it_earned() -> None:
    log = simulate(WORLD, CascadeUser(), sessions=300, seed=1)
    same = ranked(WORLD.select("qid", "docid", score=-pl.col("position").cast(pl.Float32)))
    earned = log["click"].sum() / 300
    assert support(log, same, assume="item_position") == 1
    for assume in ("item_position", "position"):
        for each in estimates(ranking_units(log, same, assume=assume, propensities=EXAMINED)):
            assert each.value == pytest.approx(earned)


def test_what_the_log_cannot_value_counts_0_and_is_said() -> None:
    log = log_of(("q", "ab", "11"), ("q", "ab", "01"), ("r", "cd", "11"), ("r", "dc", "11"))
    scores = pl.DataFrame({"qid": ["q", "q", "r"], "docid": ["b", "x", "c"], "score": [2.0, 1.0, 1.0]},
                          schema_overrides={"score": pl.Float32})  # fmt: skip
    run = ranked(scores)
    assert support(log, run, assume="item_position") == pytest.approx(1 / 3)
    assert support(log, run, assume="position") == pytest.approx(2 / 3)
    units = ranking_units(log, run, assume="item_position")
    # Only c on top of r was ever shown there, on one of its two pages: its click there weighs two.
    assert units.reward.sum() == pytest.approx(2.0)
    assert units.target.tolist().count(0.0) == 2
    assert support(log, run.with_columns(qid=pl.lit("z")), assume="position") == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"assume": "cascade"}, "unknown assumption"),
        ({"assume": "position"}, "needs propensities"),
        ({"assume": "item_position", "k": 0}, "k must be"),
    ],
)
def test_a_wrong_question_is_refused(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ranking_units(log_of(("q", "ab", "11"), ("q", "ab", "11")), NEW, **options)


ROWS = """,timestamp,item_id,position,click,propensity_score,user_feature_0
0,2019-11-24,3,1,1,0.5,x
1,2019-11-24,4,1,0,0.5,x
2,2019-11-24,3,2,0,0.25,x
3,2019-11-24,4,2,1,0.75,x
"""


def campaign(folder: Path, text: str = ROWS) -> Path:
    (folder / "all").mkdir()
    (folder / "all" / "all.csv").write_text(text)
    return folder / "all"


def test_a_bandit_log_is_read_and_valued(tmp_path: Path) -> None:
    log = read_bandit_log(campaign(tmp_path))
    assert log.rows() == [("3", 1, True, 0.5), ("4", 1, False, 0.5), ("3", 2, False, 0.25), ("4", 2, True, 0.75)]
    policy = policy_of(log.filter(pl.col("item") == "4"))
    units = policy_units(log, policy)
    assert units.control.tolist() == pytest.approx([0, 2, 0, 1 / 0.75])
    assert ips(units).value == pytest.approx(1 / 0.75 / 4)
    with pytest.raises(InputError, match="sum to 1"):
        policy_units(log, policy.with_columns(probability=pl.lit(0.5)))
    with pytest.raises(InputError, match="nothing at position 2"):
        policy_units(log, policy.filter(pl.col("position") == 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("propensity_score", "score", "there is no propensity_score"),
        ("3,1,1,0.5", "3,1,2,0.5", "line 2: click must be 0 or 1"),
        ("4,2,1,0.75", "4,0,1,0.75", "line 5: position must be an integer from 1"),
        ("4,2,1,0.75", "4,2,1,1.75", "line 5: propensity_score must be above 0"),
        ("4,2,1,0.75", "4,2,1,nan", "line 5: propensity_score must be above 0"),
    ],
)
def test_a_wrong_bandit_log_is_refused_by_line(old: str, new: str, said: str, tmp_path: Path) -> None:
    folder = campaign(tmp_path, ROWS.replace(old, new))
    with pytest.raises(InputError, match=said):
        read_bandit_log(folder)


def test_a_missing_bandit_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_bandit_log(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("obp") is None, reason="needs the package obp: pip install --no-deps obp")
@pytest.mark.parametrize("campaign_name", ["all", "men", "women"])
def test_thompson_sampling_is_valued_from_the_random_log(campaign_name: str) -> None:
    folder = packaged_folder()
    logs = {policy: read_bandit_log(folder / policy / campaign_name) for policy in ("random", "bts")}
    earned = logs["bts"]["click"].to_numpy()
    for each in estimates(policy_units(logs["random"], policy_of(logs["bts"]))):
        error = np.hypot((each.high - each.low) / 2, 1.96 * earned.std() / np.sqrt(len(earned)))
        assert abs(each.value - earned.mean()) < error
        assert each.effective > 1000
