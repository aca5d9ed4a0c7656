"""Every ranker of the catalogue learns, is stored whole, and is named as the field names it."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from rankers.artifact import load_ranker
from rankers.blend import fit_blend
from rankers.catalogue import ALIASES, ATTENTION, BLEND, NETWORKS, RANKERS, TREES, canonical
from rankers.protocol import Ranker
from rankers.training import fit_network
from rankers.trees import fit_trees
from retrieval.errors import InputError
from tests.rankers.synthetic import FEATURES, judged, ndcg


def fit(name: str) -> Ranker:
    frames = (judged(150, seed=1, depth=20), judged(40, seed=2, depth=20))
    shared = {"feature_names": FEATURES, "log": lambda metrics, step: None, "seed": 7}
    match RANKERS[name].kind:
        case "trees":
            return fit_trees(name, *frames, rounds=60, min_data_in_leaf=20, **shared)
        case "network":
            return fit_network(name, *frames, epochs=12, learning_rate=5e-3, batch_queries=8, **shared)
        case _:
            return fit_blend([fit("regression"), fit("softmax")], frames[1])


@pytest.fixture(scope="session")
def catalogue() -> dict[str, Ranker]:
    return {name: fit(name) for name in RANKERS}


@pytest.fixture(scope="module")
def unseen() -> pl.DataFrame:
    frame = judged(100, seed=8, depth=20)
    return frame.with_columns(bm25=pl.when(pl.col("docid").hash() % 9 == 0).then(None).otherwise("bm25"))


EACH = pytest.mark.parametrize("name", RANKERS)


@EACH
def test_beats_the_best_single_feature(catalogue, name, unseen):
    x = unseen.select(pl.col(FEATURES).fill_null(-1.0).fill_nan(-1.0)).to_numpy()
    best = max(ndcg(unseen, sign * x[:, f]) for f in range(x.shape[1]) for sign in (1, -1))
    assert ndcg(unseen, catalogue[name].score(unseen)) > best + 0.05


@EACH
def test_comes_back_from_its_folder_as_it_was(catalogue, name, unseen, tmp_path):
    """Rows whole, with NaN and with null; columns in any order, missing ones named."""
    ranker = catalogue[name]
    assert (ranker.name, ranker.family) == (name, RANKERS[name].family)
    ranker.save(tmp_path)
    loaded = load_ranker(tmp_path)
    few = unseen.filter(pl.col("qid").is_in(unseen["qid"].unique().sort()[:6].to_list()))
    assert few["bm25"].null_count() and few["dense"].is_nan().any()  # noqa: PT018
    scores = loaded.score(few)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, ranker.score(few))
    np.testing.assert_allclose(loaded.score(few.select(*reversed(few.columns))), scores, atol=1e-6)
    as_nan = few.with_columns(pl.col(FEATURES).fill_null(float("nan")))
    np.testing.assert_array_equal(loaded.score(as_nan), scores)
    with pytest.raises(InputError, match=r"features: missing the feature columns dense, noise_2$"):
        loaded.score(few.drop("dense", "noise_2"))


@EACH
def test_reasons_sum_to_the_score(catalogue, name, unseen):
    few = unseen.filter(pl.col("qid").is_in(unseen["qid"].unique().sort()[:3].to_list()))
    ranker = catalogue[name]
    reasons = ranker.explain(few)
    assert reasons.shape == (few.height, len(FEATURES) + 1)
    np.testing.assert_allclose(reasons.sum(axis=1), ranker.score(few), atol=1e-3)


def test_names_are_those_of_the_field_and_unknown_ones_meet_a_suggestion():
    assert list(RANKERS) == [*TREES, *NETWORKS, *(name + ATTENTION for name in NETWORKS), BLEND]
    assert len(RANKERS) == 25
    assert {canonical(alias) for alias in ALIASES} <= set(RANKERS)
    assert canonical("pointwise") == "regression"
    with pytest.raises(InputError, match=r"unknown ranker 'lambdamrat'; did you mean 'lambdamart'\? known: regression"):
        canonical("lambdamrat")
    with pytest.raises(InputError, match=r"unknown ranker 'lambdamart\+attention'"):
        canonical("lambdamart+attention")


def test_the_catalogue_is_light():
    program = "import sys, rankers.catalogue\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=".")
    assert not {"torch", "lightgbm", "scipy", "mlflow"} & {name.partition(".")[0] for name in run.stdout.split()}
