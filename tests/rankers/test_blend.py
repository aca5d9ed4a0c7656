"""Blends: scores worked out document by document, weights of validation alone, folders that are whole or refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rankers.artifact import load_ranker
from rankers.blend import BlendRanker, fit_blend
from rankers.protocol import Floats, Ranker
from retrieval.errors import InputError, IntegrityError
from tests.rankers.synthetic import FEATURES, judged, ndcg

VALID = judged(40, seed=2)
MEMBERS = ("regression", "lambdamart", "ranknet")
METHODS = pytest.mark.parametrize("method", ["rank", "stack"])


class Column:
    """A fake ranker whose score is one feature, negated where `sign` is -1, and 0 where missing."""

    def __init__(self, feature: str, sign: float = 1.0) -> None:
        self.name, self.family, self.sign = f"{feature}{sign:+.0f}", "pointwise", sign
        self.feature_names, self.hyperparameters = (feature,), {}

    def score(self, features: pl.DataFrame) -> Floats:
        return self.sign * features[self.feature_names[0]].fill_null(0).fill_nan(0).to_numpy()

    def explain(self, features: pl.DataFrame) -> Floats:
        return np.column_stack([self.score(features), np.zeros(features.height)])

    def save(self, folder: Path) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def members(rankers) -> list[Ranker]:
    return [rankers[name] for name in MEMBERS] + [Column("dense")]


@pytest.fixture(scope="module")
def unseen() -> pl.DataFrame:
    """Slates of unequal length, one of a single document, with ties and missing values."""
    frame = judged(30, seed=8, depth=15)
    sizes = pl.DataFrame({"qid": frame["qid"].unique().sort(), "rows": [1, *range(2, 16), *range(1, 16)]})
    inside = pl.int_range(pl.len()).over("qid") < pl.col("rows")
    frame = frame.join(sizes, on="qid", maintain_order="left").filter(inside).drop("rows")
    return frame.with_columns(dense=(pl.col("dense") * 3).round() / 3)


def by_hand(blend: BlendRanker, frame: pl.DataFrame) -> np.ndarray:
    """Places by counting who stands above and level, z-scores by the definition; slate by slate."""
    found = np.zeros(frame.height)
    for qid in frame["qid"].unique():
        rows = np.flatnonzero((frame["qid"] == qid).to_numpy())
        for member, weight in zip(blend.members, blend.weights, strict=True):
            scores = np.asarray(member.score(frame)[rows], dtype=float)
            for row, s in zip(rows, scores, strict=True):
                if blend.method == "rank":
                    below, level = (scores < s).sum(), (scores == s).sum() - 1
                    found[row] += weight * (below + level / 2) / max(len(rows) - 1, 1)
                elif scores.std() > 1e-12:
                    found[row] += weight * (s - scores.mean()) / scores.std()
    return found


@METHODS
def test_scores_equal_those_worked_out_slate_by_slate(members, unseen, method):
    blend = fit_blend(members, VALID, method=method)
    scores = blend.score(unseen)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, by_hand(blend, unseen), atol=1e-5)


@METHODS
def test_contributions_and_base_value_sum_to_the_score(members, unseen, method):
    blend = fit_blend(members, VALID, method=method)
    reasons = blend.explain(unseen)
    assert blend.feature_names == FEATURES
    assert reasons.shape == (unseen.height, len(FEATURES) + 1)
    np.testing.assert_allclose(reasons.sum(axis=1), blend.score(unseen), atol=1e-3)
    by_feature = dict(zip(FEATURES, np.abs(reasons).mean(axis=0), strict=False))
    assert by_feature["constant"] == 0.0
    assert by_feature["dense"] > max(by_feature[f"noise_{i}"] for i in (1, 2, 3))


@METHODS
def test_rows_and_columns_in_another_order_and_slates_alone_score_the_same(members, unseen, method):
    blend = fit_blend(members, VALID, method=method)
    scores, rows = blend.score(unseen), np.random.default_rng(1).permutation(unseen.height)
    np.testing.assert_allclose(blend.score(unseen.select(*reversed(unseen.columns))[rows]), scores[rows], atol=1e-6)
    for _, slate in list(unseen.with_row_index("row").group_by("qid"))[:8]:
        np.testing.assert_allclose(blend.score(slate), scores[slate["row"].to_numpy()], atol=1e-6)
    assert blend.score(unseen.clear()).shape == (0,)
    assert blend.explain(unseen.clear()).shape == (0, len(FEATURES) + 1)


def best_loss(members: list, weights: np.ndarray) -> float:
    """Softmax cross-entropy (rel / Σrel against softmax of the blended z-scores) a validation slate.

    At the best overall scale, which a ranking does not have.
    """
    slates = []
    for _, slate in VALID.group_by("qid"):
        z = np.zeros(slate.height)
        for member, weight in zip(members, weights, strict=True):
            scores = np.asarray(member.score(slate), dtype=float)
            z += weight * (scores - scores.mean()) / max(scores.std(), 1e-12)
        slates.append((z, slate["relevance"].to_numpy() / slate["relevance"].sum()))

    def loss(scale: float) -> float:
        return float(np.mean([-(target * (scale * z - np.log(np.exp(scale * z).sum()))).sum() for z, target in slates]))

    return min(map(loss, np.geomspace(0.1, 10, 60)))


def test_a_stacks_weights_are_a_share_each_and_no_worse_than_equal_ones(members):
    for parts in (members, [Column("bm25"), Column("noise_1"), Column("dense")], [Column("bm25"), Column("bm25", -1)]):
        blend = fit_blend(parts, VALID, method="stack")
        weights = np.array(blend.weights)
        assert weights.sum() == pytest.approx(1.0)
        assert (weights >= 0).all()
        assert best_loss(parts, weights) <= best_loss(parts, np.full(len(parts), 1 / len(parts))) + 1e-3
    assert fit_blend(members, VALID, method="rank").weights == tuple([1 / len(members)] * len(members))


def test_a_stack_leans_on_what_ranks_and_away_from_what_misleads():
    weights = fit_blend([Column("bm25"), Column("noise_1"), Column("bm25", -1)], VALID, method="stack").weights
    assert weights[0] > 2 * weights[1] > 0
    assert weights[2] < 0.05


def test_blending_what_knows_different_things_beats_each(unseen):
    parts = [Column("bm25"), Column("dense"), Column("overlap")]
    frame = judged(200, seed=9)
    alone = max(ndcg(frame, part.score(frame)) for part in parts)
    for method in ("rank", "stack"):
        assert ndcg(frame, fit_blend(parts, VALID, method=method).score(frame)) > alone + 0.02


def test_the_better_way_on_validation_is_taken():
    for parts in ([Column("bm25"), Column("noise_1"), Column("noise_2")], [Column("bm25"), Column("dense")]):
        judged_as = {}
        for method in ("rank", "stack"):
            judged_as[method] = ndcg(VALID, fit_blend(parts, VALID, method=method).score(VALID))
        best = fit_blend(parts, VALID)
        assert ndcg(VALID, best.score(VALID)) == pytest.approx(max(judged_as.values()), abs=1e-6)
        assert judged_as[best.method] == max(judged_as.values())


def test_validation_queries_with_nothing_relevant_count_for_nothing(members):
    blank = judged(5, seed=11).with_columns(relevance=pl.lit(0, dtype=pl.Int32))
    assert fit_blend(members, pl.concat([blank, VALID])).weights == fit_blend(members, VALID).weights


@METHODS
def test_round_trip(rankers, unseen, method, tmp_path):
    blend = fit_blend([rankers[name] for name in MEMBERS], VALID, method=method)
    blend.save(tmp_path / "first")
    loaded = load_ranker(tmp_path / "first")
    np.testing.assert_array_equal(loaded.score(unseen), blend.score(unseen))
    np.testing.assert_array_equal(loaded.explain(unseen), blend.explain(unseen))
    for attribute in ("name", "family", "feature_names", "hyperparameters", "weights", "method"):
        assert getattr(loaded, attribute) == getattr(blend, attribute)
    loaded.save(tmp_path / "again")
    for path in (tmp_path / "first").rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(tmp_path / "first")).read_bytes() == path.read_bytes()


def test_a_blend_of_blends_is_a_ranker_too(rankers, unseen, tmp_path):
    inner = fit_blend([rankers["regression"], rankers["ranknet"]], VALID, method="rank")
    outer = fit_blend([inner, rankers["lambdamart"]], VALID, method="stack", name="both")
    outer.save(tmp_path)
    np.testing.assert_array_equal(load_ranker(tmp_path).score(unseen), outer.score(unseen))


@pytest.fixture
def stored(rankers, tmp_path) -> Path:
    fit_blend([rankers[name] for name in MEMBERS], VALID, method="stack").save(tmp_path)
    return tmp_path


def test_a_member_put_in_place_of_another_is_refused(stored):
    shutil.rmtree(stored / "members" / "1")
    shutil.copytree(stored / "members" / "0", stored / "members" / "1")
    with pytest.raises(IntegrityError, match=r"members/1: is not the member that was blended"):
        load_ranker(stored)


@pytest.mark.parametrize("file", ["members/0/model.txt", "members/2/model.safetensors", "members/1/ranker.json"])
@pytest.mark.parametrize("damage", ["altered", "gone"])
def test_an_altered_member_is_refused(stored, file, damage):
    path = stored / file
    data = path.read_bytes()
    path.unlink()
    if damage == "altered":
        path.write_bytes(data.replace(b"1", b"2", 1) if b"1" in data else data[:-1])
    with pytest.raises(IntegrityError, match=r"members/\d"):
        load_ranker(stored)


def test_altered_weights_are_refused(stored):
    said = json.loads((stored / "blend.json").read_text())
    said["weights"] = [1.0, 0.0, 0.0]
    (stored / "blend.json").write_text(json.dumps(said))
    with pytest.raises(IntegrityError, match=r"blend\.json: truncated or altered"):
        load_ranker(stored)


def test_what_makes_no_blend_is_refused(members):
    for few in ([], members[:1]):
        with pytest.raises(InputError, match=f"a blend needs at least two rankers; found {len(few)}"):
            fit_blend(few, VALID)
    with pytest.raises(InputError, match="unknown way to blend 'median'; known: rank, stack, best"):
        fit_blend(members, VALID, method="median")
    with pytest.raises(InputError, match="valid: no query has a relevant candidate"):
        fit_blend(members, VALID.with_columns(relevance=pl.lit(0, dtype=pl.Int32)))
    with pytest.raises(InputError, match="missing the feature columns bm25"):
        fit_blend(members, VALID.drop("bm25"))
