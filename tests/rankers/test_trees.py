"""The four objectives of the trees, their options as LightGBM keeps them, and what each refuses."""

import numpy as np
import polars as pl
import pytest

from rankers.trees import TreeRanker, fit_trees
from retrieval.errors import InputError
from tests.rankers.synthetic import FEATURES, judged, ndcg

TRAIN, VALID, UNSEEN = judged(80, seed=1), judged(30, seed=2), judged(80, seed=3)


def fit(name: str, train: pl.DataFrame = TRAIN, valid: pl.DataFrame = VALID, **options) -> TreeRanker:
    shared = {"feature_names": FEATURES, "log": lambda metrics, step: None, "min_data_in_leaf": 20, "rounds": 40}
    return fit_trees(name, train, valid, **{**shared, **options})


def parameters(ranker: TreeRanker) -> dict[str, str]:
    """What LightGBM's own text says that it was trained with."""
    section = ranker.model.partition("parameters:\n")[2].partition("end of parameters")[0]
    lines = [line.strip("[]").partition(": ") for line in section.splitlines() if line.startswith("[")]
    return {key: value for key, _, value in lines}


@pytest.mark.parametrize(
    ("name", "objective", "family"),
    [
        ("regression", "regression", "pointwise"),
        ("logistic", "binary", "pointwise"),
        ("lambdamart", "lambdarank", "listwise"),
        ("xendcg", "rank_xendcg", "listwise"),
    ],
)
def test_each_objective_is_lightgbms_and_ranks(name, objective, family):
    curve = []
    ranker = fit(name, log=lambda metrics, step: curve.append(dict(metrics)))
    assert parameters(ranker)["objective"] == objective
    assert ranker.family == family
    assert ranker.hyperparameters["objective"] == objective
    assert ndcg(UNSEEN, ranker.score(UNSEEN)) > ndcg(UNSEEN, UNSEEN["bm25"].to_numpy()) + 0.1
    best = ranker.hyperparameters["rounds"]
    assert max(range(len(curve)), key=lambda step: curve[step]["valid_ndcg_exp_cut_10"]) + 1 == best
    assert ndcg(VALID, ranker.score(VALID)) == pytest.approx(curve[best - 1]["valid_ndcg_exp_cut_10"], abs=1e-6)


def test_logistic_scores_are_log_odds_of_reaching_the_threshold():
    for threshold in (1, 2):
        ranker = fit("logistic", threshold=threshold, rounds=60, patience=60)
        assert ranker.hyperparameters["threshold"] == threshold
        odds = 1 / (1 + np.exp(-ranker.score(TRAIN).astype(float)))
        share = float((TRAIN["relevance"] >= threshold).mean())
        assert odds.mean() == pytest.approx(share, rel=0.15)
        assert odds[TRAIN["relevance"].to_numpy() >= threshold].mean() > 3 * share


@pytest.mark.parametrize("name", ["regression", "logistic", "lambdamart", "xendcg"])
@pytest.mark.parametrize("sign", [1, -1])
def test_monotone_constraints_hold_everywhere(name, sign):
    """Length means nothing here, bm25 rises: held the other way, it must not rise a single step."""
    ranker = fit(name, monotone={"bm25": sign, "length": sign})
    rows = UNSEEN.head(60)
    for feature, values in (("bm25", np.linspace(0, 40, 30)), ("length", np.linspace(0, 2000, 30))):
        scores = [ranker.score(rows.with_columns(pl.lit(float(v), dtype=pl.Float32).alias(feature))) for v in values]
        steps = sign * np.diff(np.stack(scores), axis=0)
        assert (steps >= -1e-6).all()
    if sign > 0:
        assert np.ptp(ranker.score(rows)) > 0
    free = fit(name)
    assert not np.array_equal(free.score(rows), ranker.score(rows))


def test_what_lambdamart_is_told_reaches_lightgbm():
    plain = parameters(fit("lambdamart"))
    assert (plain["lambdarank_truncation_level"], plain["lambdarank_norm"]) == ("30", "1")
    told = fit("lambdamart", truncation_level=3, norm=False, label_gain=[0, 1, 2], num_leaves=7, learning_rate=0.1)
    said = parameters(told)
    assert (said["lambdarank_truncation_level"], said["lambdarank_norm"]) == ("3", "0")
    assert (said["label_gain"], said["num_leaves"], said["learning_rate"]) == ("0,1,2", "7", "0.1")
    assert told.hyperparameters["label_gain"] == [0, 1, 2]
    assert parameters(fit("regression", lambda_l2=3.0, feature_fraction=0.25))["lambda_l2"] == "3"


@pytest.mark.parametrize("option", [{"truncation_level": 1}, {"norm": False}, {"label_gain": [0, 1, 50]}])
def test_each_of_lambdamarts_options_changes_what_is_learned(option):
    assert not np.array_equal(fit("lambdamart", **option).score(UNSEEN), fit("lambdamart").score(UNSEEN))


def test_a_label_gain_changes_learning_and_never_the_validation_metric():
    curve = []
    ranker = fit("lambdamart", label_gain=[0, 1, 2], log=lambda metrics, step: curve.append(dict(metrics)))
    best = max(metrics["valid_ndcg_exp_cut_10"] for metrics in curve)
    assert ndcg(VALID, ranker.score(VALID)) == pytest.approx(best, abs=1e-6)


def clicked(queries: int, seed: int) -> pl.DataFrame:
    """Judged rows shown in an order that bm25 made, their labels clicks that fall off with the position."""
    rng = np.random.default_rng(seed)
    frame = judged(queries, seed=seed).sort("qid", "bm25", descending=[False, True])
    position = np.tile(np.arange(1, 31), queries)
    seen = rng.random(len(position)) < 1 / position
    click = ((frame["relevance"].to_numpy() > 0) | (rng.random(len(position)) < 0.1)) & seen
    return frame.with_columns(
        relevance=pl.Series(click.astype(np.int32)), position=pl.Series(position.astype(np.int32))
    )


def test_the_position_of_a_click_is_taken_out_of_what_is_learned_from_it():
    train, valid = clicked(400, seed=1), clicked(100, seed=2)
    naive = fit("lambdamart", train, valid, num_leaves=4)
    unbiased = fit("lambdamart", train, valid, num_leaves=4, position_column="position", position_regularisation=0.1)
    assert parameters(unbiased)["lambdarank_position_bias_regularization"] == "0.1"
    assert "position" not in unbiased.feature_names
    assert ndcg(UNSEEN, unbiased.score(UNSEEN)) > ndcg(UNSEEN, naive.score(UNSEEN))
    fit("lambdamart", train, valid.drop("position"), position_column="position")  # validation has none to give


def soft(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(relevance=(pl.col("relevance") / 3).cast(pl.Float32))


def test_soft_labels_are_for_regression():
    ranker = fit("regression", soft(TRAIN), soft(VALID), soft=True, lambda_l2=0.0, rounds=60)
    graded = fit("regression", lambda_l2=0.0, rounds=60)
    assert np.corrcoef(ranker.score(UNSEEN), graded.score(UNSEEN))[0, 1] > 0.9
    assert ndcg(UNSEEN, ranker.score(UNSEEN)) > 0.6
    for name in ("logistic", "lambdamart", "xendcg"):
        with pytest.raises(InputError, match=f"{name} needs grades: soft labels are for regression and the networks"):
            fit(name, soft(TRAIN), soft(VALID), soft=True)


POSITIONED = TRAIN.with_columns(position=pl.lit(1, dtype=pl.Int32))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("xendcg", {"offset_feature": "bm25"}, "xendcg has no head start: offset_feature is for regression and lambda"),
        ("logistic", {"offset_feature": "bm25"}, "logistic has no head start"),
        ("regression", {"position_column": "position"}, "regression has no positions and no label gains: they are for"),
        ("xendcg", {"label_gain": [0, 1]}, "xendcg has no positions and no label gains"),
        ("xendcg", {"truncation_level": 5}, "xendcg compares no pairs: truncation_level and norm are for lambdamart"),
        ("regression", {"norm": False}, "regression compares no pairs"),
        ("lambdamart", {"threshold": 2}, "lambdamart has no threshold: it is for logistic"),
        ("ranknet", {}, "'ranknet' is no ranker of trees; known: regression, logistic, lambdamart, xendcg"),
        ("lambdamart", {"monotone": {"bm52": 1}}, "the monotone constraint names 'bm52', which is not a feature"),
        ("regression", {"offset_feature": "bm52"}, "the offset 'bm52' is not a feature; one of: bm25, dense"),
        (
            "lambdamart",
            {"position_column": "position", "feature_names": ["bm25", "position"]},
            "'position' is the position, unknown when a query is served: no feature of it",
        ),
    ],
)
def test_options_that_an_objective_has_not_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        fit(name, POSITIONED, **options)


@pytest.mark.parametrize("position", [0, -3, None])
def test_positions_start_at_one_and_are_not_missing(position):
    train = TRAIN.with_columns(position=pl.lit(position, dtype=pl.Int32))
    with pytest.raises(InputError, match="train: the column position must hold positions from 1"):
        fit("lambdamart", train, position_column="position")
