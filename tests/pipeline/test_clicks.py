"""The click jobs from file to file, and the test that matters: does debiased training recover what bias cost?"""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline import clicks
from pipeline.build import fit_ranker
from rankers.clicks.labels import by_impression, labelled
from rankers.clicks.log import read_log, write_log
from rankers.clicks.simulate import shown_by, simulate
from rankers.clicks.users import PositionBasedUser
from retrieval.errors import InputError
from retrieval.frames import ranked
from retrieval.letor import read_letor, write_letor
from retrieval.metrics import evaluate
from retrieval.trec import read_qrels, read_run, write_run
from tests.bench import mq2008
from tests.pipeline.click_experiment import DEBIASED, all_runs, share_of
from tests.rankers.synthetic import judged, ndcg

SESSIONS = 4000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """judged.txt, 30 queries; log.parquet, of a position-based user whose pages are ranked by a feature, with swaps."""
    folder = tmp_path_factory.mktemp("clicks")
    write_letor(judged(30, seed=1), folder / "judged.txt")
    clicks.simulate([folder / "judged.txt"], out=folder / "log.parquet", user="pbm", by="f1", sessions=SESSIONS,
                    depth=8, swap=0.3)  # fmt: skip
    return folder


def test_a_simulated_log_is_a_log(folder: Path) -> None:
    log = read_log(folder / "log.parquet")
    assert log["session"].n_unique() == SESSIONS
    assert log["position"].max() == 8
    pairs = read_letor([folder / "judged.txt"]).select("qid", "docid")
    assert log.join(pairs, on=["qid", "docid"], how="anti").is_empty()


@pytest.mark.parametrize("model", ["pbm", "cascade", "dbn"])
def test_a_model_is_fitted_stored_and_used(model: str, folder: Path, tmp_path: Path) -> None:
    seen = []
    fitted = clicks.fit(folder / "log.parquet", model, out=tmp_path / "model", progress=lambda *step: seen.append(step))
    assert fitted.quality.perplexity > 1
    assert seen[-1][0] == f"fit {model}"
    assert all(1 <= done <= total for _, done, total in seen)
    stored = clicks.labels(folder / "log.parquet", method="model", model=str(tmp_path / "model"))
    fresh = clicks.labels(folder / "log.parquet", method="model", model=model, out=tmp_path / "labels.parquet")
    assert_frame_equal(stored, fresh)
    assert_frame_equal(pl.read_parquet(tmp_path / "labels.parquet"), fresh)


@pytest.mark.parametrize("source", ["swap", "pbm", "regression-em"])
@pytest.mark.parametrize("method", ["ips", "dr"])
def test_debiased_labels_follow_relevance_closer_than_clicks(method: str, source: str, folder: Path) -> None:
    features = [folder / "judged.txt"] if source == "regression-em" else []
    found = clicks.labels(folder / "log.parquet", method=method, propensity=source, features=features)
    naive = clicks.labels(folder / "log.parquet", method="ctr")
    grades = read_letor([folder / "judged.txt"]).select("qid", "docid", grade="relevance")

    def agreement(labels: pl.DataFrame) -> float:
        both = labels.join(grades, on=["qid", "docid"])
        return both.select(pl.corr("relevance", "grade", method="spearman")).item()

    assert agreement(found) > agreement(naive)
    assert found["relevance"].min() >= 0


def test_grades_are_judgements_that_others_read(folder: Path, tmp_path: Path) -> None:
    log, judged_by = folder / "log.parquet", tmp_path / "grades.qrels"
    found = clicks.labels(log, method="model", model="pbm", grades=[0.2, 0.5], out=judged_by)
    assert_frame_equal(read_qrels(judged_by), found)
    clicks.labels(log, method="model", model="pbm", grades=[0.2, 0.5], out=tmp_path / "grades.parquet")
    write_run(ranked(found.select("qid", "docid", score=pl.col("relevance").cast(pl.Float32))), tmp_path / "run", "t")
    by_grades = clicks.evaluate(log, run=tmp_path / "run", labels=tmp_path / "grades.parquet").ndcg
    assert list(by_grades.values()) == [
        pytest.approx(evaluate(read_run(tmp_path / "run"), found, ["ndcg_cut_10"])["ndcg_cut_10"])
    ]
    with pytest.raises(InputError, match="TREC judgements are grades"):
        clicks.labels(log, method="ctr", out=tmp_path / "soft.qrels")
    assert not (tmp_path / "soft.qrels").exists()


def test_grades_make_qrels(folder: Path) -> None:
    found = clicks.labels(folder / "log.parquet", method="model", model="pbm", grades=[0.2, 0.5])
    assert found.schema["relevance"] == pl.Int32
    assert set(found["relevance"].unique()) == {0, 1, 2}
    run = found.select("qid", "docid", score=pl.col("relevance").cast(pl.Float32))
    assert evaluate(run, found, ["ndcg_cut_10"], "skip")["ndcg_cut_10"] == pytest.approx(1)


def test_models_and_a_run_are_judged(folder: Path, tmp_path: Path) -> None:
    truth = read_letor([folder / "judged.txt"])
    for name, sign in (("good", 1.0), ("bad", -1.0)):
        score = (pl.col("relevance") * sign).cast(pl.Float32)
        write_run(ranked(truth.select("qid", "docid", score=score)), tmp_path / f"{name}.trec", name)
    clicks.labels(folder / "log.parquet", method="ips", propensity="swap", out=tmp_path / "labels.parquet")
    judged_runs = {
        name: clicks.evaluate(folder / "log.parquet", ["pbm", "dbn"], run=tmp_path / f"{name}.trec",
                              labels=tmp_path / "labels.parquet", propensity="swap", k=5)
        for name in ("good", "bad")
    }  # fmt: skip
    good, bad = judged_runs["good"], judged_runs["bad"]
    assert set(good.models) == {"pbm", "dbn"}
    assert good.models["pbm"].log_likelihood > good.models["dbn"].log_likelihood
    for labels, value in good.ndcg.items():
        assert value > bad.ndcg[labels]
    assert {how: [each.name for each in values] for how, values in good.values.items()} == {
        "item_position": ["ips", "snips"],
        "position": ["ips", "snips", "dr"],
    }
    for better, worse in zip(good.values["position"], bad.values["position"], strict=True):
        assert better.low > worse.high
    assert good.support["position"] >= good.support["item_position"] > 0
    assert good.logged_value is not None


def test_a_logs_own_propensities_value_a_run(folder: Path, tmp_path: Path) -> None:
    log = read_log(folder / "log.parquet")
    own = log.with_columns(propensity=(1 / pl.col("position")).cast(pl.Float32))
    write_log(own, tmp_path / "own.parquet")
    run = ranked(log.group_by("qid", "docid").agg(score=pl.col("click").sum().cast(pl.Float32)))
    write_run(run, tmp_path / "run.trec", "t")
    assert set(clicks.evaluate(tmp_path / "own.parquet", run=tmp_path / "run.trec").values) == {
        "item_position",
        "position",
    }
    assert set(clicks.evaluate(folder / "log.parquet", run=tmp_path / "run.trec").values) == {"item_position"}
    assert clicks.labels(tmp_path / "own.parquet", method="ips").height == run.height


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda log: clicks.fit(log, "ubm"), "unknown click model 'ubm'"),
        (lambda log: clicks.fit(log, "pbm", continuation=0.5), "only dbn has a continuation"),
        (lambda log: clicks.labels(log, method="best"), "unknown method 'best'"),
        (lambda log: clicks.labels(log, method="model"), "needs a click model"),
        (lambda log: clicks.labels(log, method="ctr", model="pbm"), "the others take none"),
        (lambda log: clicks.labels(log, method="ctr", propensity="swap"), "uses no propensities"),
        (lambda log: clicks.labels(log, method="ips"), "no column propensity"),
        (lambda log: clicks.labels(log, method="ips", propensity="regression-em"), "needs the documents' features"),
        (lambda log: clicks.labels(log, method="ips", propensity="none.parquet"), "none.parquet: no such file"),
        (lambda log: clicks.labels(log, method="ips", propensity=str(log)), "needs the columns position, propensity"),
        (lambda log: clicks.labels(log, method="model", model="nowhere"), "neither a click model"),
        (lambda log: clicks.labels(log, method="model", model="pbm", min_dwell=3), "min-dwell"),
        (lambda log: clicks.labels(log, method="ips", propensity="swap", features=[log]), "features are for"),
        (lambda log: clicks.evaluate(log), "nothing to evaluate"),
        (lambda log: clicks.evaluate(log, ["pbm"], propensity="regression-em"), "regression-em is for labels"),
        (lambda log: clicks.evaluate(log, ["pbm"], labels=log), "nothing to evaluate"),
        (lambda log: clicks.fit(log.with_name("judged.txt"), "pbm"), "is not a Parquet file"),
        (lambda log: clicks.simulate([log.with_name("judged.txt")], out=log, user="x", by="f1"), "unknown user"),
        (lambda log: clicks.simulate([log.with_name("judged.txt")], out=log, user="pbm"), "--by"),
        (lambda log: clicks.simulate([log.with_name("judged.txt")], out=log, user="pbm", by="f99"), "no feature 'f99'"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(ask, said: str, folder: Path) -> None:
    before = (folder / "log.parquet").read_bytes()
    with pytest.raises(InputError) as refused:
        ask(folder / "log.parquet")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (folder / "log.parquet").read_bytes() == before


def test_every_click_label_trains_a_ranker(folder: Path) -> None:
    """The frames that the labels make are those that training takes: soft ones, and impressions with a position."""
    features = read_letor([folder / "judged.txt"])
    quick = {"rounds": 5, "min_data_in_leaf": 5}
    soft = labelled(features, clicks.labels(folder / "log.parquet", method="ips", propensity="swap"))
    for name, settings in (("regression", quick), ("softmax", {"epochs": 2}), ("ranknet", {"epochs": 2})):
        ranker = fit_ranker(name, soft, soft, seed=0, soft=True, settings=settings, log=lambda metrics, step: None)
        assert set(ranker.feature_names) == set(features.columns) - {"qid", "docid", "relevance"}
    rows = by_impression(read_log(folder / "log.parquet").head(2000), features)
    ranker = fit_ranker("lambdamart", rows, rows, seed=0, log=lambda metrics, step: None,
                        settings={"position_column": "position", **quick})  # fmt: skip
    assert "position" not in ranker.feature_names


def test_unbiased_lambdamart_learns_around_the_positions() -> None:
    """LightGBM's `position`, on pages that a poor feature ranked: it is told apart from relevance, and pays."""
    train, test = judged(300, seed=10, depth=10), judged(300, seed=60, depth=10)
    scores = train.select("qid", "docid", score=pl.col("bm25"))
    world = shown_by(scores, train.select("qid", "docid", "relevance"))
    rows = by_impression(simulate(world, PositionBasedUser(1.0), sessions=15_000, seed=0), train)
    found = {}
    for name, frame, settings in (
        ("plain", rows.drop("position"), {}),
        ("unbiased", rows, {"position_column": "position"}),
    ):
        ranker = fit_ranker("lambdamart", frame, frame, seed=0, log=lambda metrics, step: None,
                            settings={"rounds": 60, **settings})  # fmt: skip
        found[name] = ndcg(test, ranker.score(test))
    assert found["unbiased"] > found["plain"] + 0.01


@pytest.mark.slow
@pytest.mark.skipif(not mq2008.FOLDER.is_dir(), reason="needs ../shared/data/mq2008")
def test_debiased_training_recovers_what_position_bias_cost() -> None:
    """1M clicks, ten seeds, all five folds: see tests/pipeline/click_experiment.py."""
    runs = all_runs(range(10))
    shares = {name: share_of(runs, name) for name in DEBIASED}
    for name, found in shares.items():
        # Where there is no gap to speak of, nothing can be said of a share of it.
        assert found.gap <= 2 * found.gap_se or found.share >= 0.8, name
    assert shares["ips, true"].gap > 2 * shares["ips, true"].gap_se, "this set-up is known to leave a gap"
