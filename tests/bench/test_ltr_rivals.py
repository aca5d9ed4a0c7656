"""The rivals are run fairly: rows keep their order, seeds repeat, our measure stops them, validation alone chooses."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tests.bench import mq2008
from tests.bench.bench_ltr_rivals import chosen, report, results
from tests.bench.ltr_rivals import RIVALS, Floats, Rival, Settings, bare_lightgbm_seconds

QUICK = {"rounds": 8, "patience": 8}


@pytest.fixture(params=list(RIVALS))
def rival(request: pytest.FixtureRequest) -> Rival:
    found = RIVALS[request.param]
    if not found.installed:
        pytest.skip(f"{found.package} is not installed")
    return found


def judged(queries: int, seed: int, first: int = 0) -> pl.DataFrame:
    """Ten documents a query whose grade follows f1 + f2 with noise; one query in ten has nothing relevant."""
    rng = np.random.default_rng(seed)
    x = rng.random((queries * 10, 4)).astype(np.float32)
    grade = np.digitize(x[:, 0] + x[:, 1] + rng.normal(0, 0.2, len(x)), [1.1, 1.5])
    grade[np.repeat(np.arange(queries) % 10 == 0, 10)] = 0
    return pl.DataFrame(
        {
            "qid": [f"{first + row // 10:05d}" for row in range(len(x))],
            "docid": [f"{row % 10}" for row in range(len(x))],
            "relevance": grade.astype(np.int32),
            **{f"f{at + 1}": x[:, at] for at in range(4)},
        }
    )


TRAIN, VALID, TEST = judged(80, 1), judged(30, 2, 1000), judged(30, 3, 2000)


def test_it_learns_and_returns_the_rows_of_test_in_their_order(rival: Rival) -> None:
    settings = dict(rival.grid[0]) | {"rounds": 60, "patience": 60}
    scores, seconds, micros = rival.fit_score(TRAIN, VALID, TEST, seed=1, settings=settings)
    assert scores.dtype == np.float32
    assert scores.shape == (TEST.height,)
    assert min(seconds, micros) > 0
    assert mq2008.ndcg(TEST, scores) > mq2008.ndcg(TEST, TEST["f1"].to_numpy()) + 0.02
    backwards, _, _ = rival.fit_score(TRAIN, VALID, TEST[::-1], seed=1, settings=settings)
    np.testing.assert_array_equal(backwards[::-1], scores)


def test_rows_of_train_need_not_be_grouped(rival: Rival) -> None:
    mixed = TRAIN.with_row_index().sort(pl.col("index") % 10, maintain_order=True).drop("index")
    settings = dict(rival.grid[0]) | QUICK
    scores, _, _ = rival.fit_score(mixed, VALID, TEST, seed=1, settings=settings)
    np.testing.assert_array_equal(scores, rival.fit_score(TRAIN, VALID, TEST, seed=1, settings=settings)[0])


def test_a_seed_repeats_and_another_differs(rival: Rival) -> None:
    settings = dict(rival.grid[0]) | QUICK
    first, again, other = (rival.fit_score(TRAIN, VALID, TEST, seed=seed, settings=settings)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_it_keeps_the_round_that_validation_liked_best(rival: Rival) -> None:
    def valid_ndcg(rounds: int) -> float:
        settings = dict(rival.grid[0]) | {"rounds": rounds, "patience": rounds}
        return mq2008.ndcg(VALID, rival.fit_score(TRAIN, VALID, VALID, seed=1, settings=settings)[0])

    prefixes = [valid_ndcg(rounds) for rounds in range(1, 9)]
    assert prefixes == sorted(prefixes)


def test_blank_queries_are_left_out_when_asked() -> None:
    rival = RIVALS["lightgbm regression"]
    full, left_out, gone = (
        rival.fit_score(train, VALID, TEST, seed=1, settings=dict(rival.grid[0]) | QUICK | {"keep_blank": keep})[0]
        for train, keep in (
            (TRAIN, True),
            (TRAIN, False),
            (TRAIN.filter((pl.col("relevance") > 0).any().over("qid")), True),
        )
    )
    np.testing.assert_array_equal(left_out, gone)
    assert (full != left_out).any()


def test_bare_lightgbm_takes_longer_for_more_rounds() -> None:
    settings = {"objective": "lambdarank", "num_leaves": 7}
    few, many = (
        bare_lightgbm_seconds(TRAIN, VALID, rounds=rounds, seed=1, threads=1, settings=settings) for rounds in (2, 400)
    )
    assert 0 < few < many


def feature_rival(*columns: str) -> Rival:
    """Scores by one feature, the one that its settings name, plus its seed."""

    def fit_score(
        train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, *, seed: int, settings: Settings
    ) -> tuple[Floats, float, float]:
        return test[str(settings["column"])].to_numpy() + np.float32(seed), 1.0, 2.0

    return Rival("feature", "numpy", fit_score, [{"column": column} for column in columns])


def test_settings_are_chosen_on_validation_whatever_test_says() -> None:
    valid = VALID.with_columns(f4=pl.col("relevance").cast(pl.Float32))
    test = TEST.with_columns(f3=pl.col("relevance").cast(pl.Float32))
    found = chosen(feature_rival("f3", "f4", "f1"), TRAIN, valid, test, seed=0)
    assert found.settings == {"column": "f4"}
    assert found.valid_ndcg == 1.0
    np.testing.assert_array_equal(found.scores, test["f4"])


def test_every_seed_has_a_result_with_the_settings_of_the_first() -> None:
    found = list(results(feature_rival("f3", "f1"), (TRAIN, VALID, TEST), range(3)))
    assert [result.settings["column"] for result in found] == ["f1"] * 3
    for seed, result in enumerate(found):
        np.testing.assert_array_equal(result.scores, TEST["f1"].to_numpy() + np.float32(seed))


def test_a_rival_that_is_not_installed_says_so() -> None:
    absent = replace(feature_rival("f1"), package="no_such_package")
    (row,) = report(absent, [(TRAIN, VALID, TEST)], range(3))
    assert row == {"rival": "feature", "skipped": "no_such_package is not installed (it is in the extra dev)"}


@pytest.mark.slow
@pytest.mark.skipif(not mq2008.FOLDER.is_dir(), reason="needs ../shared/data/mq2008")
def test_lightgbm_reaches_its_published_level() -> None:
    rival = RIVALS["lightgbm regression"]
    figures = []
    for train, valid, test in mq2008.folds():
        scores, _, _ = rival.fit_score(train, valid, test, seed=0, settings=rival.grid[0])
        figures.append(mq2008.ndcg(test, scores))
    assert np.mean(figures) > 0.775
