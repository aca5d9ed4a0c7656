"""What MLflow holds of an evaluation, read back by MLflow's own client."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import polars as pl
import pytest

from pipeline.evaluation import evaluate, judge
from pipeline.reasons import reasons_of
from pipeline.tracking import Extras, Tracker
from rankers.artifact import load_ranker
from retrieval.errors import InputError, IntegrityError

METRICS = ("ndcg_exp_cut_10", "ndcg_cut_10", "map", "err_10")
FINGERPRINT = "a" * 64


def client(home: Path) -> mlflow.MlflowClient:
    uri = f"sqlite:///{home}/mlflow.db"
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def ranked_by(folder: Path, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("qid", "docid", score=pl.Series(load_ranker(folder).score(rows), dtype=pl.Float32))


@pytest.fixture(scope="module")
def evaluation(rows, ranker_folders):
    runs = {name: ranked_by(ranker_folders[name], rows) for name in ("lambdamart", "ranknet")}
    runs["overlap"] = rows.filter(pl.col("docid") != "d03").select("qid", "docid", score="overlap")
    features = {name: load_ranker(ranker_folders[name]).feature_names for name in ("lambdamart", "ranknet")}
    qrels = rows.select("qid", "docid", "relevance")
    return evaluate(runs, qrels, metrics=METRICS, blank="one", features=features | {"overlap": ["overlap"]})


@pytest.fixture(scope="module")
def extras(rows, ranker_folders):
    qrels = rows.select("qid", "docid", "relevance")
    found = {}
    for name in ("lambdamart", "ranknet"):
        folder = ranker_folders[name]
        valid = judge({name: ranked_by(folder, rows)}, qrels, metrics=METRICS)[name].per_query
        found[name] = Extras(
            key=f"key of {name}",
            ranker=folder,
            params={"leaves": 15},
            seed=3,
            metrics={"train_s": 1.5, "predict_us_per_doc": 4.0},
            valid=valid,
            curve=pl.DataFrame({"step": [1, 2], "valid_ndcg@10": [0.4, 0.5]}),
            reasons=reasons_of(load_ranker(folder), rows, rows=150),
        )
    return found


@pytest.fixture(scope="module")
def logged(mlflow_template, evaluation, extras, tmp_path_factory):
    home = tmp_path_factory.mktemp("logged")
    shutil.copy(mlflow_template / "mlflow.db", home / "mlflow.db")
    return home, Tracker(home).log_evaluation(evaluation, dataset="little set", fingerprint=FINGERPRINT, extras=extras)


def test_the_systems_are_nested_in_the_evaluations_run(logged, evaluation):
    home, found = logged
    reader = client(home)
    parent = reader.get_run(found.run_id)
    assert reader.get_experiment(parent.info.experiment_id).name == "little set"
    assert (parent.info.status, parent.data.tags["cascade.data"]) == ("FINISHED", FINGERPRINT)
    assert set(found.systems) == {"lambdamart", "ranknet", "overlap"}
    for name, run_id in found.systems.items():
        run = reader.get_run(run_id)
        assert (run.info.run_name, run.info.status) == (name, "FINISHED")
        assert run.data.tags["mlflow.parentRunId"] == found.run_id
        assert run.data.tags["cascade.label"] == evaluation.system(name).label
        assert run.data.tags["cascade.candidates"] == evaluation.system(name).candidates
    assert {system.name: system.label for system in evaluation.systems} == {
        "lambdamart": "A1",
        "ranknet": "A1",
        "overlap": "B2",
    }


def test_metrics_are_named_by_their_convention(logged, evaluation):
    home, found = logged
    run = client(home).get_run(found.systems["ranknet"])
    ours = evaluation.system("ranknet")
    for metric in METRICS:
        for blank in ("zero", "one", "skip"):
            assert run.data.metrics[f"test.{metric}.{blank}"] == getattr(ours.metrics[metric], blank)
        logged_ci = (run.data.metrics[f"test.{metric}.low"], run.data.metrics[f"test.{metric}.high"])
        assert logged_ci == ours.metrics[metric].ci95
    assert run.data.metrics["test.mean_rank"] == ours.mean_rank
    assert (run.data.metrics["train_s"], run.data.metrics["predict_us_per_doc"]) == (1.5, 4.0)
    assert run.data.params == {"leaves": "15", "seed": "3", "blank": "one", "metric": "ndcg_exp_cut_10"}
    curve = client(home).get_metric_history(run.info.run_id, "test.ndcg_exp_by_k.one")
    assert {point.step: point.value for point in curve} == {k: mean for k, (mean, _, _) in ours.ndcg_by_k.items()}
    training = client(home).get_metric_history(run.info.run_id, "curve.valid_ndcg_10")
    assert sorted((point.step, point.value) for point in training) == [(1, 0.4), (2, 0.5)]
    best = evaluation.systems[0].name
    if best != "ranknet":
        pair = evaluation.pair(best, "ranknet")
        assert run.data.metrics["test.behind_best"] == pair.difference
        assert run.data.metrics["test.behind_best_p_holm"] == pair.p_holm


def test_models_and_data_sets_are_linked_both_ways(logged):
    home, found = logged
    reader = client(home)
    for run_id in (found.run_id, *found.systems.values()):
        [data] = reader.get_run(run_id).inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("little set", FINGERPRINT[:36])
    experiment = reader.get_experiment_by_name("little set").experiment_id
    on_it = reader.search_logged_models(
        [experiment],
        filter_string="metrics.`test.ndcg_exp_cut_10.one` > 0",
        datasets=[{"dataset_name": "little set", "dataset_digest": FINGERPRINT[:36]}],
    )
    assert {model.name for model in on_it} == {"lambdamart", "ranknet"}
    [model] = [model for model in on_it if model.name == "ranknet"]
    figures = {metric.key: metric for metric in model.metrics}
    assert figures["test.map.zero"].dataset_digest == FINGERPRINT[:36]
    assert figures["test.map.zero"].value == reader.get_run(found.systems["ranknet"]).data.metrics["test.map.zero"]


def test_tables_figures_and_plots_are_artifacts(logged, evaluation, tmp_path):
    home, found = logged
    reader = client(home)
    whole = json.loads(Path(reader.download_artifacts(found.run_id, "evaluation.json")).read_text())
    assert whole == json.loads(json.dumps(evaluation.as_json()))
    pairs = pl.read_parquet(reader.download_artifacts(found.run_id, "pairs.parquet"))
    assert pairs["p_holm"].to_list() == [pair.p_holm for pair in evaluation.pairs]
    shown = json.loads(Path(reader.download_artifacts(found.run_id, "pairs.json")).read_text())
    assert shown["columns"][:3] == ["one", "other", "difference"]
    assert len(shown["data"]) == 3
    assert "mlflow.loggedArtifacts" in reader.get_run(found.run_id).data.tags
    plots = {file.path for file in reader.list_artifacts(found.run_id, "plots")}
    of_all = ("critical_difference", "ndcg_by_k", "wins_ties_losses", "by_relevant")
    assert plots == {f"plots/{name}.png" for name in of_all}
    mine = {file.path for file in reader.list_artifacts(found.systems["lambdamart"], "plots")}
    assert mine == {f"plots/{name}.png" for name in ("importance", "shap_summary", "learning_curve")}
    stored = pl.read_parquet(reader.download_artifacts(found.systems["overlap"], "per_query/test.parquet"))
    assert stored.equals(evaluation.system("overlap").per_query)
    assert reader.list_artifacts(found.systems["overlap"], "plots") == []


def test_the_same_evaluation_again_writes_nothing(logged, evaluation, extras):
    home, found = logged
    before = (home / "mlflow.db").read_bytes()
    again = Tracker(home).log_evaluation(evaluation, dataset="little set", fingerprint=FINGERPRINT, extras=extras)
    assert again == found
    assert (home / "mlflow.db").read_bytes() == before


def test_other_data_or_another_key_is_another_evaluation(mlflow_home, evaluation):
    tracker = Tracker(mlflow_home)
    first = tracker.log_evaluation(evaluation, dataset="little", fingerprint=FINGERPRINT)
    data = tracker.log_evaluation(evaluation, dataset="little", fingerprint="b" * 64)
    key = tracker.log_evaluation(
        evaluation, dataset="little", fingerprint=FINGERPRINT, extras={"ranknet": Extras(key="other")}
    )
    assert len({first.run_id, data.run_id, key.run_id}) == 3
    assert [run.info.run_id for run in tracker.evaluations()] == [key.run_id, data.run_id, first.run_id]


def test_an_evaluation_whose_logging_failed_is_logged_again(mlflow_home, evaluation, ranker_folders, tmp_path):
    tracker = Tracker(mlflow_home)
    broken = tmp_path / "ranker"
    shutil.copytree(ranker_folders["ranknet"], broken)
    (broken / "model.safetensors").write_bytes(b"altered")
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        tracker.log_evaluation(
            evaluation, dataset="little", fingerprint=FINGERPRINT, extras={"ranknet": Extras(ranker=broken)}
        )
    assert tracker.evaluations() == []
    assert tracker.log_evaluation(evaluation, dataset="little", fingerprint=FINGERPRINT).systems
    assert len(tracker.evaluations()) == 1


def test_validation_figures_alone_decide_who_is_champion(mlflow_home, evaluation, extras):
    """The system that is best on test is no better on validation, and stays a challenger."""
    best, *_, last = [system.name for system in evaluation.systems]
    valid = extras["lambdamart"].valid
    better = valid.with_columns(pl.col("ndcg_exp_cut_10") * 0.5)
    given = {best: Extras(key="best on test", valid=better, ranker=extras["lambdamart"].ranker)}
    given[last] = Extras(key="best on validation", valid=valid, ranker=extras["ranknet"].ranker)
    tracker = Tracker(mlflow_home)
    runs = tracker.log_evaluation(evaluation, dataset="little", fingerprint=FINGERPRINT, extras=given).systems

    def put_forward(name):
        return tracker.promote_run(
            runs[name], dataset="little", fingerprint=FINGERPRINT, blank="one", metric="ndcg_exp_cut_10"
        )

    assert put_forward(last).status == "champion"
    assert put_forward(best).status == "challenger"
    assert put_forward(last).status == "unchanged"
    champion = tracker.aliases(tracker.evaluations()[0])["champion"]
    assert champion.tags["cascade.system"] == last
    unknown = tracker.promote_run(runs[best], dataset="little", fingerprint=FINGERPRINT, blank="one", metric="recall_5")
    assert (unknown.status, unknown.p_value) == ("challenger", None)
    assert "no validation figures of recall_5" in unknown.reason


def test_a_system_without_a_model_cannot_be_champion(mlflow_home, evaluation):
    tracker = Tracker(mlflow_home)
    runs = tracker.log_evaluation(evaluation, dataset="little", fingerprint=FINGERPRINT).systems
    with pytest.raises(InputError, match="overlap: was tracked without a model"):
        tracker.promote_run(runs["overlap"], dataset="little", fingerprint=FINGERPRINT, blank="one")
    assert tracker.aliases(tracker.evaluations()[0]) == {}


def test_a_better_system_replaces_the_champion_which_becomes_previous(mlflow_home, evaluation, extras):
    worse = extras["ranknet"].valid.with_columns(pl.col(METRICS) * 0.5)
    given = {"lambdamart": extras["lambdamart"], "ranknet": replace(extras["ranknet"], valid=worse)}
    tracker = Tracker(mlflow_home)
    runs = tracker.log_evaluation(evaluation, dataset="little", fingerprint=FINGERPRINT, extras=given).systems
    about = {"dataset": "little", "fingerprint": FINGERPRINT, "blank": "zero", "metric": "ndcg_exp_cut_10"}
    tracker.promote_run(runs["ranknet"], **about)
    promotion = tracker.promote_run(runs["lambdamart"], **about)
    assert (promotion.status, promotion.previous) == ("champion", "ranknet")
    assert promotion.p_value < 0.05
    aliases = tracker.aliases(tracker.evaluations()[0])
    assert {alias: version.tags["cascade.system"] for alias, version in aliases.items()} == {
        "champion": "lambdamart",
        "previous": "ranknet",
    }


def test_names_that_mlflow_does_not_take_are_logged_all_the_same(mlflow_home, rows, ranker_folders):
    name = "listnet+attention/seed:0 50%"
    run = ranked_by(ranker_folders["listnet+attention"], rows)
    evaluation = evaluate({name: run}, rows.select("qid", "docid", "relevance"), split="Fold 1/test")
    extras = {name: Extras(ranker=ranker_folders["listnet+attention"])}
    found = Tracker(mlflow_home).log_evaluation(evaluation, dataset="été/2", fingerprint=FINGERPRINT, extras=extras)
    metrics = client(mlflow_home).get_run(found.systems[name]).data.metrics
    assert metrics["fold-1-test.ndcg_cut_10.zero"] == evaluation.systems[0].metrics["ndcg_cut_10"].zero
    assert np.isfinite(list(metrics.values())).all()
