"""What every ranker promises, whatever it learned with."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
import torch

from rankers.artifact import load_ranker
from retrieval.errors import InputError
from tests.rankers.conftest import NAMES, fitted
from tests.rankers.synthetic import FEATURES, judged, ndcg

FAMILY_OF = {"regression": "pointwise", "lambdamart": "listwise", "ranknet": "pairwise"}


@pytest.fixture(scope="module")
def unseen() -> pl.DataFrame:
    return judged(150, seed=8)


@pytest.mark.parametrize("name", NAMES)
def test_beats_the_best_single_feature_and_chance(rankers, name, unseen):
    x = unseen.select(pl.col(FEATURES).fill_nan(-1.0)).to_numpy()
    best = max(ndcg(unseen, sign * x[:, f]) for f in range(x.shape[1]) for sign in (1, -1))
    chance = ndcg(unseen, np.random.default_rng(0).normal(size=unseen.height))
    assert chance < best
    assert ndcg(unseen, rankers[name].score(unseen)) > best + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is(rankers, name):
    ranker = rankers[name]
    assert ranker.name == name.partition(" ")[0]
    assert ranker.family == FAMILY_OF[ranker.name]
    assert ranker.feature_names == FEATURES


@pytest.mark.parametrize("name", NAMES)
def test_a_score_belongs_to_its_row(rankers, name, unseen):
    """Whatever the order of rows and columns, and whatever other queries are scored along with it."""
    ranker = rankers[name]
    scores = ranker.score(unseen)
    assert scores.dtype == np.float32
    assert scores.shape == (unseen.height,)
    rows = np.random.default_rng(1).permutation(unseen.height)
    other = unseen.select(*reversed(unseen.columns))[rows]
    np.testing.assert_allclose(ranker.score(other), scores[rows], atol=1e-6)
    np.testing.assert_allclose(ranker.explain(other), ranker.explain(unseen)[rows], atol=1e-6)
    alone = unseen["qid"] == unseen["qid"][0]
    np.testing.assert_allclose(ranker.score(unseen.filter(alone)), scores[alone.to_numpy()], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_contributions_and_base_value_sum_to_the_score(rankers, name, unseen):
    contributions = rankers[name].explain(unseen)
    assert contributions.shape == (unseen.height, len(FEATURES) + 1)
    np.testing.assert_allclose(contributions.sum(axis=1), rankers[name].score(unseen), atol=1e-4)
    assert np.ptp(contributions[:, -1]) < 1e-9
    by_feature = dict(zip(FEATURES, np.abs(contributions).mean(axis=0), strict=False))
    assert by_feature["constant"] == 0.0
    assert min(by_feature["bm25"], by_feature["dense"]) > max(by_feature[f"noise_{i}"] for i in (1, 2, 3))


@pytest.mark.parametrize("name", ["regression from bm25", "lambdamart", "ranknet"])
def test_missing_columns_are_named_and_no_rows_give_no_scores(rankers, name, unseen):
    for method in (rankers[name].score, rankers[name].explain):
        with pytest.raises(InputError, match=r"features: missing the feature columns dense, noise_2$"):
            method(unseen.drop("dense", "noise_2"))
    assert rankers[name].score(unseen.clear()).shape == (0,)
    assert rankers[name].explain(unseen.clear()).shape == (0, len(FEATURES) + 1)


@pytest.mark.parametrize("name", ["lambdamart", "ranknet"])
def test_scores_the_same_from_many_threads_and_leaves_torch_as_it_was(rankers, name, unseen):
    queries = unseen.partition_by("qid")[:40]
    alone = [rankers[name].score(query) for query in queries]
    before = torch.get_num_threads()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(rankers[name].score, queries))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["regression", "lambdamart from bm25", "ranknet"])
def test_the_same_seed_gives_the_same_bytes_whatever_the_order_of_rows(rankers, name, tmp_path):
    torch.manual_seed(123)  # the caller's random state neither matters nor changes
    before = torch.get_rng_state()
    train, valid = judged(100, seed=1), judged(40, seed=2)
    again = fitted(name, train.reverse(), valid.sample(fraction=1.0, shuffle=True, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    rankers[name].save(tmp_path / "first")
    again.save(tmp_path / "again")
    for path in (tmp_path / "first").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["lambdamart", "ranknet"])
def test_another_seed_gives_another_model(rankers, name, unseen):
    other = fitted(name, seed=8)
    assert not np.array_equal(other.score(unseen), rankers[name].score(unseen))


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_model_that_was_best_on_validation_and_logs_each_step(name):
    curve = []
    ranker = fitted(name, log=lambda metrics, step: curve.append((step, dict(metrics))))
    assert [step for step, _ in curve] == list(range(1, len(curve) + 1))
    best = max(metrics["valid_ndcg_exp_cut_10"] for _, metrics in curve)
    valid = judged(40, seed=2)
    assert ndcg(valid, ranker.score(valid)) == pytest.approx(best, abs=1e-6)
    first_best = next(step for step, metrics in curve if metrics["valid_ndcg_exp_cut_10"] == best)
    assert ranker.hyperparameters["epochs" if name == "ranknet" else "rounds"] == first_best
    logged = {"valid_ndcg_exp_cut_10", "train_loss"} if name == "ranknet" else {"valid_ndcg_exp_cut_10"}
    assert all(set(metrics) == logged and np.isfinite([*metrics.values()]).all() for _, metrics in curve)


@pytest.mark.parametrize("name", NAMES)
def test_next_to_no_data_still_makes_a_ranker(name, tmp_path):
    """Two queries of three documents: nothing to split on; a head start then ranks as its feature does."""
    few = judged(2, seed=5, depth=3)
    ranker = fitted(name, few, few)
    ranker.save(tmp_path)
    unseen = judged(20, seed=6)
    scores = load_ranker(tmp_path).score(unseen)
    assert np.isfinite(scores).all()
    if name.endswith("from bm25"):
        assert ndcg(unseen, scores) == pytest.approx(ndcg(unseen, unseen["bm25"].to_numpy()), abs=1e-6)


@pytest.mark.parametrize("name", ["regression", "lambdamart", "ranknet"])
def test_bad_training_frames_are_refused(name):
    good = judged(5, seed=1, depth=5)
    with pytest.raises(InputError, match="train: column relevance must be Int32, found Float64"):
        fitted(name, good.cast({"relevance": pl.Float64}), good)
    with pytest.raises(InputError, match="valid: missing the feature columns bm25"):
        fitted(name, good, good.drop("bm25"))
    with pytest.raises(InputError, match="train: infinite values in dense"):
        fitted(name, good.with_columns(dense=pl.lit(float("inf"), dtype=pl.Float32)), good)


def test_an_unknown_offset_is_refused():
    from rankers.trees import fit_lambdamart

    good = judged(5, seed=1, depth=5)
    with pytest.raises(InputError, match="the offset 'bm52' is not a feature; one of: bm25, dense"):
        fit_lambdamart(good, good, feature_names=FEATURES, log=lambda metrics, step: None, offset_feature="bm52")
