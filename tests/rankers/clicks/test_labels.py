"""Propensities and the labels that they make: known biases are found, and taken out on the mean."""

import numpy as np
import polars as pl
import pytest

from rankers.clicks.labels import by_impression, click_rate, doubly_robust, graded, inverse_propensity, labelled
from rankers.clicks.log import counts
from rankers.clicks.propensity import filled_down, swap_propensities, with_propensities
from rankers.clicks.quality import as_millionths, ndcg_by_labels
from rankers.clicks.regression import fit_regression_em
from rankers.clicks.simulate import simulate, simulate_counts
from rankers.clicks.users import PositionBasedUser
from retrieval.errors import InputError
from tests.rankers.clicks.worlds import log_of, shown

USER = PositionBasedUser(1.0)
WORLD = shown(50, 6, seed=2)
TRUTH = pl.DataFrame({"position": range(1, 7), "propensity": USER.examination(6)},
                     schema={"position": pl.Int32, "propensity": pl.Float32})  # fmt: skip
HAND = counts(log_of(("q", "ab", "10"), ("q", "ab", "11"), ("q", "ba", "01"), ("q", "ba", "00")))
"""a: at position 1 twice, both clicked; at 2 twice, one clicked. b: at 2 twice, one clicked; at 1 twice, none."""
TWO = pl.DataFrame({"position": [1, 2], "propensity": [1.0, 0.25]}, schema=TRUTH.schema)


def values(labels: pl.DataFrame) -> dict[str, float]:
    return dict(labels.select("docid", "relevance").iter_rows())


def test_labels_by_hand() -> None:
    assert values(click_rate(HAND)) == pytest.approx({"a": 3 / 4, "b": 1 / 4})
    assert values(inverse_propensity(HAND, TWO)) == pytest.approx({"a": (2 + 4) / 4, "b": 4 / 4})
    assert values(inverse_propensity(HAND, TWO, clip=0.5)) == pytest.approx({"a": (2 + 2) / 4, "b": 2 / 4})
    guess = pl.DataFrame({"qid": ["q"] * 2, "docid": ["a", "b"], "relevance": pl.Series([0.5, 1.0], dtype=pl.Float32)})
    # Mean propensity .625 each: a expects .5 * 2.5 = 1.25 clicks and got 3; b expects 2.5 and got 1.
    robust = {"a": 0.5 + (3 - 1.25) / (4 * 0.625), "b": 1.0 + (1 - 2.5) / (4 * 0.625)}
    assert values(doubly_robust(HAND, guess, TWO)) == pytest.approx(robust)
    clipped = {"a": 0.5 + (3 - 1.25) / (4 * 0.8), "b": 1.0 + (1 - 2.5) / (4 * 0.8)}
    assert values(doubly_robust(HAND, guess, TWO, clip=0.8)) == pytest.approx(clipped)
    high = guess.with_columns(relevance=pl.Series([0.5, 9.0], dtype=pl.Float32))
    assert values(doubly_robust(HAND, high, TWO, clip=0.625))["b"] == pytest.approx(0.4)  # 1 / 2.5: the guess cancels
    low = guess.with_columns(relevance=pl.Series([0.5, -9.0], dtype=pl.Float32))
    assert values(doubly_robust(HAND, low, TWO, clip=1.0))["b"] == 0


def test_inverse_propensity_is_unbiased_and_the_click_rate_is_not() -> None:
    sums = [simulate_counts(WORLD, USER, clicks=20_000, seed=seed) for seed in range(30)]
    truth = WORLD.sort("qid", "docid")["attraction"].to_numpy()
    weighed = np.array([inverse_propensity(each, TRUTH)["relevance"].to_numpy() for each in sums])
    naive = np.array([click_rate(each)["relevance"].to_numpy() for each in sums])
    error = weighed.std(axis=0, ddof=1) / np.sqrt(len(sums))
    z = (weighed.mean(axis=0) - truth) / error
    assert abs(z.mean()) < 5 / np.sqrt(len(z))
    assert (np.abs(z) < 5).all()
    deep = WORLD.sort("qid", "docid")["position"].to_numpy() == 6
    assert (naive.mean(axis=0)[deep] < truth[deep] / 4).all()


def test_doubly_robust_is_right_when_the_exposure_or_the_estimate_is() -> None:
    truth = WORLD.sort("qid", "docid")["attraction"].to_numpy()
    right = WORLD.select("qid", "docid", relevance=pl.col("attraction").cast(pl.Float32))
    wrong = right.with_columns(relevance=pl.lit(0.3, dtype=pl.Float32))
    sums = [simulate_counts(WORLD, USER, clicks=20_000, seed=seed) for seed in range(20)]

    def error(label) -> float:
        return float(np.abs(np.mean([label(s)["relevance"].to_numpy() for s in sums], axis=0) - truth).mean())

    noise = error(lambda s: inverse_propensity(s, TRUTH))
    assert error(lambda s: doubly_robust(s, wrong, TRUTH)) == pytest.approx(noise, abs=1e-6)
    assert error(lambda s: doubly_robust(s, right, TRUTH, clip=0.9)) < noise
    assert error(lambda s: inverse_propensity(s, TRUTH, clip=0.9)) > 10 * noise
    assert error(lambda s: doubly_robust(s, wrong, TRUTH, clip=0.9)) > 10 * noise


def test_a_document_that_was_never_shown_keeps_its_estimate() -> None:
    guess = pl.DataFrame({"qid": ["q"] * 3 + ["r"], "docid": list("abcz"),
                          "relevance": pl.Series([0.5, 0.5, 0.7, 0.7], dtype=pl.Float32)})  # fmt: skip
    found = values(doubly_robust(HAND, guess, TWO))
    assert set(found) == {"a", "b", "c"}
    assert found["c"] == pytest.approx(0.7)
    with pytest.raises(InputError, match="1 documents of the log have none"):
        doubly_robust(HAND, guess.filter(pl.col("docid") != "a"), TWO)


def test_swaps_give_the_propensities_and_their_intervals_cover() -> None:
    covered = []
    for seed in range(20):
        found = swap_propensities(simulate_counts(WORLD, USER, clicks=100_000, seed=seed, swap=0.3), monotone=False)
        np.testing.assert_allclose(found["propensity"], USER.examination(6), rtol=0.2)
        covered += [low <= 1 / p <= high for p, _, low, high in found.iter_rows() if p > 1]
    assert 0.87 <= np.mean(covered) <= 1.0


def test_pooled_propensities_never_rise() -> None:
    found = swap_propensities(simulate_counts(shown(30, 10), USER, clicks=3_000, seed=1, swap=0.3))
    assert (found["propensity"].diff().drop_nulls() <= 1e-7).all()
    assert found["propensity"][0] == 1


def test_a_log_without_swaps_gives_none(caplog) -> None:
    with pytest.raises(InputError, match="swap documents at random"):
        swap_propensities(simulate_counts(WORLD, USER, clicks=1000))
    pages = [("q", "abc", "110"), ("q", "bac", "110"), ("q", "cba", "000")]
    with pytest.raises(InputError, match="too few clicks"):
        swap_propensities(counts(log_of(pages[0], pages[2])))
    assert swap_propensities(counts(log_of(*pages)))["position"].to_list() == [1, 2]
    assert "too few clicks" in caplog.text


def test_missing_positions_take_the_nearest_above() -> None:
    known = pl.DataFrame({"position": [1, 3], "propensity": [1.0, 0.5]}, schema=TRUTH.schema)
    assert filled_down(known, 5)["propensity"].to_list() == [1.0, 1.0, 0.5, 0.5, 0.5]


def features_of(world: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Two features: the attraction with some noise, and noise."""
    rng = np.random.default_rng(seed)
    noisy = world["attraction"].to_numpy() + rng.normal(0, 0.05, world.height)
    columns = {"f1": noisy.astype(np.float32), "f2": rng.normal(size=world.height).astype(np.float32)}
    return world.select("qid", "docid").with_columns(**{name: pl.Series(value) for name, value in columns.items()})


def test_regression_em_tells_position_from_relevance_without_swaps() -> None:
    world = shown(200, 8, seed=6)
    steps = []
    found = fit_regression_em(simulate_counts(world, USER, clicks=200_000, seed=1), features_of(world),
                              feature_names=["f1", "f2"], log=lambda metrics, step: steps.append(metrics))  # fmt: skip
    np.testing.assert_allclose(found.propensities["propensity"], USER.examination(8), rtol=0.15)
    both = found.relevance.join(world, on=["qid", "docid"])
    assert np.corrcoef(both["relevance"], both["attraction"])[0, 1] > 0.9
    assert len(steps) == 50
    assert steps[-1]["log_likelihood"] > steps[0]["log_likelihood"]


def test_a_position_without_a_propensity_is_named() -> None:
    for propensities, said in [
        (TWO.head(1), "none for position 2"),
        (pl.concat([TWO, TWO]), "appears twice"),
        (TWO.with_columns(propensity=pl.lit(0.0, dtype=pl.Float32)), "0.0 at position 1"),
        (TWO.with_columns(propensity=pl.lit(float("nan"), dtype=pl.Float32)), "nan at position 1"),
        (None, "no column propensity"),
    ]:
        with pytest.raises(InputError, match=said):
            with_propensities(HAND, propensities)
    with pytest.raises(InputError, match="clip"):
        inverse_propensity(HAND, TWO, clip=0.0)


def test_a_logs_own_propensities_are_used() -> None:
    log = log_of(("q", "ab", "11")).with_columns(propensity=pl.Series([1.0, 0.5], dtype=pl.Float32))
    assert values(inverse_propensity(counts(log))) == pytest.approx({"a": 1.0, "b": 2.0})


def test_grades_are_the_edges_reached() -> None:
    labels = pl.DataFrame(
        {"qid": ["q"] * 4, "docid": list("abcd"), "relevance": pl.Series([0.0, 0.1, 0.35, 2.0], dtype=pl.Float32)}
    )
    assert values(graded(labels, [0.1, 0.3, 0.6])) == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert graded(labels, [0.5]).schema["relevance"] == pl.Int32
    for edges in ([], [0.3, 0.1], [0.1, 0.1], [float("nan")]):
        with pytest.raises(InputError, match="edges"):
            graded(labels, edges)


def test_features_get_the_labels_of_what_was_shown() -> None:
    features = features_of(WORLD).with_columns(relevance=pl.lit(3, dtype=pl.Int32))
    labels = click_rate(simulate_counts(WORLD, USER, clicks=5000)).head(10)
    frame = labelled(features, labels)
    assert frame.columns == ["qid", "docid", "f1", "f2", "relevance"]
    assert (frame.height, frame.schema["relevance"]) == (10, pl.Float32)
    with pytest.raises(InputError, match="has a label"):
        labelled(features.with_columns(qid=pl.lit("other")), labels)


def test_impressions_are_slates_of_pages() -> None:
    log = simulate(WORLD, USER, sessions=300, seed=1)
    rows = by_impression(log, features_of(WORLD))
    assert rows.schema["relevance"] == rows.schema["position"] == pl.Int32
    assert (rows.group_by("qid").len()["len"] == 6).all()
    assert rows["relevance"].sum() == log["click"].sum()
    assert (rows.group_by("qid").agg(pl.col("relevance").max())["relevance"] == 1).all()
    with pytest.raises(InputError, match="no page has a click"):
        by_impression(log_of(("q", "ab", "00")), features_of(WORLD))
    with pytest.raises(InputError, match="2 documents of the log have none"):
        by_impression(log_of(("q", "ab", "10")), features_of(WORLD))


def test_soft_ndcg_is_the_linear_one() -> None:
    labels = pl.DataFrame(
        {"qid": ["q"] * 3, "docid": list("abc"), "relevance": pl.Series([0.5, 0.0, 0.25], dtype=pl.Float32)}
    )
    run = pl.DataFrame({"qid": ["q"] * 3, "docid": list("abc"), "score": pl.Series([1.0, 3.0, 2.0], dtype=pl.Float32)})
    gained = 0.25 / np.log2(3) + 0.5 / np.log2(4)
    assert ndcg_by_labels(run, labels) == pytest.approx(gained / (0.5 + 0.25 / np.log2(3)), abs=1e-6)
    for wrong in (-0.1, 3000.0, float("nan")):
        with pytest.raises(InputError, match="outside"):
            as_millionths(labels.with_columns(relevance=pl.lit(wrong, dtype=pl.Float32)))
