"""`cascade evaluate` and the job behind it: whatever can rank, side by side."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import polars as pl
import pytest

from pipeline.comparable import fingerprints_of
from pipeline.compare import overview
from pipeline.evaluate import evaluate_systems
from pipeline.evaluation import evaluate, judge
from pipeline.results import Leaderboard, System
from pipeline.tracking import Tracker
from rankers.artifact import load_ranker
from retrieval.errors import InputError, IntegrityError
from retrieval.frames import ranked
from retrieval.trec import write_run

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("lambdamart", "ranknet", "listnet+attention", "blend")


def cascade(*arguments: str | Path, home: Path, columns: int = 80) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "CASCADE_HOME": str(home)}
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=home.parent, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def files(rows, ranker_folders, tmp_path_factory):
    """Judgements, features, queries and a run of each ranker, as files."""
    folder = tmp_path_factory.mktemp("files")
    rows.drop("relevance").write_parquet(folder / "rows.parquet")
    rows.write_parquet(folder / "judged.parquet")
    lines = [f"{qid} 0 {docid} {grade}" for qid, docid, grade in rows.select("qid", "docid", "relevance").iter_rows()]
    (folder / "little.qrels").write_text("\n".join(lines) + "\n")
    asked = [
        {"qid": qid, "query": "a lens" if number % 2 else "what is a lens", "topic": f"t{number % 3}"}
        for number, qid in enumerate(rows["qid"].unique().sort())
    ]
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in asked))
    for name in KINDS:
        scores = pl.Series(load_ranker(ranker_folders[name]).score(rows), dtype=pl.Float32)
        write_run(ranked(rows.select("qid", "docid", score=scores)), folder / f"{name}.run", name)
    return folder


@pytest.fixture(scope="module")
def home(mlflow_template, files, ranker_folders, tmp_path_factory):
    """A home where the four rankers were evaluated, and lambdamart is champion of `little`."""
    home = tmp_path_factory.mktemp("module") / "home"
    home.mkdir()
    shutil.copy(mlflow_template / "mlflow.db", home)
    found = evaluate_systems(
        [str(ranker_folders[name]) for name in KINDS],
        home=home, qrels=files / "little.qrels", features=files / "rows.parquet", queries=files / "queries.jsonl",
    )  # fmt: skip
    promotion = Tracker(home).promote_run(
        found.runs.systems["lambdamart"], dataset="little", fingerprint=found.fingerprint, blank="zero"
    )
    assert promotion.status == "champion"
    return home


def registered(home: Path) -> str:
    [fingerprint] = {
        shown.fingerprint for shown in overview(home, "little")[1] if "lambdamart" in {row.name for row in shown.rows}
    }
    return f"cascade-little-{fingerprint[:12]}"


def test_a_ranker_is_judged_the_same_by_its_run_its_folder_its_model_and_its_name(home, files, ranker_folders):
    model = f"models:/{registered(home)}@champion"
    found = evaluate_systems(
        ["run=" + str(files / "lambdamart.run"), f"folder={ranker_folders['lambdamart']}", f"model={model}",
         "tracked=lambdamart"],
        home=home, qrels=files / "little.qrels", features=files / "rows.parquet",
    )  # fmt: skip
    e = found.evaluation
    assert {system.name for system in e.systems} == {"run", "folder", "model", "tracked"}
    assert all(pair.ties == pair.wins + pair.ties + pair.losses == 40 for pair in e.pairs)
    assert len({json.dumps(row["metrics"]) for row in e.as_json()["systems"]}) == 1
    # The same documents, and features where they are known: nothing to label.
    assert {system.label for system in e.systems} == {""}
    # Judged beside a tracked system, it is on that system's data set, and keeps its key and model.
    tracker = Tracker(home)
    runs = {run.info.run_name: run for run in tracker.nested(tracker.evaluations()[0])}
    assert found.dataset == "little"
    assert runs["tracked"].data.tags["cascade.key"] == runs["model"].data.tags["cascade.key"]
    assert runs["tracked"].data.tags["cascade.model_id"] == runs["model"].data.tags["cascade.model_id"]
    uri = f"sqlite:///{home}/mlflow.db"
    read = mlflow.MlflowClient(tracking_uri=uri).get_run(runs["model"].info.run_id)
    assert [model.model_id for model in read.inputs.model_inputs] == [runs["model"].data.tags["cascade.model_id"]]


def test_every_kind_of_ranker_scores_as_in_process(home, files, rows, ranker_folders):
    qrels = rows.select("qid", "docid", "relevance")
    runs = {}
    for name in KINDS:
        scores = pl.Series(load_ranker(ranker_folders[name]).score(rows), dtype=pl.Float32)
        runs[name] = rows.select("qid", "docid", score=scores)
    expected = evaluate(runs, qrels)
    found = evaluate_systems(list(KINDS), home=home, qrels=files / "little.qrels")
    run_id = found.runs.systems["ranknet"]
    by_run = evaluate_systems([f"again={run_id}"], home=home, qrels=files / "little.qrels")
    assert by_run.evaluation.systems[0].metrics == found.evaluation.system("ranknet").metrics
    assert {s.name: s.metrics for s in found.evaluation.systems} == {s.name: s.metrics for s in expected.systems}


def test_letor_rows_and_judged_parquet_bring_their_own_judgements(mlflow_home, files, ranker_folders):
    by_qrels = evaluate_systems(
        [str(ranker_folders["blend"])], home=mlflow_home, qrels=files / "little.qrels", features=files / "rows.parquet"
    )
    judged = evaluate_systems([str(ranker_folders["blend"])], home=mlflow_home, features=files / "judged.parquet")
    assert judged.evaluation.fingerprints == by_qrels.evaluation.fingerprints
    assert judged.evaluation.systems[0].metrics == by_qrels.evaluation.systems[0].metrics
    assert (judged.dataset, by_qrels.dataset) == ("judged", "little")


def test_other_values_of_the_features_are_other_data(mlflow_home, files, rows, ranker_folders, tmp_path):
    folder = str(ranker_folders["lambdamart"])
    rows.with_columns(pl.col("age") + 1).write_parquet(tmp_path / "changed.parquet")
    rows.sample(fraction=1, shuffle=True, seed=1).write_parquet(tmp_path / "shuffled.parquet")
    keys = [
        evaluate_systems([folder], home=mlflow_home, features=path, dataset="x").fingerprint
        for path in (files / "judged.parquet", tmp_path / "shuffled.parquet", tmp_path / "changed.parquet")
    ]
    assert keys[0] == keys[1] != keys[2]


def test_figures_of_other_qrels_queries_or_splits_are_refused(home, files, rows, tmp_path):
    lines = (files / "little.qrels").read_text().splitlines()
    (tmp_path / "fewer.qrels").write_text("\n".join(line for line in lines if not line.startswith("q01 ")) + "\n")
    with pytest.raises(
        InputError, match="lambdamart: does not compare: its figures on 'test' were judged by other qrels"
    ):
        evaluate_systems(["lambdamart", str(files / "ranknet.run")], home=home, qrels=tmp_path / "fewer.qrels")
    with pytest.raises(InputError, match="lambdamart: does not compare: it was judged on the split test, not on 'dev'"):
        evaluate_systems(["lambdamart"], home=home, qrels=files / "little.qrels", split="dev")
    evaluate_systems([f"fewer={files / 'ranknet.run'}"], home=home, qrels=tmp_path / "fewer.qrels")
    with pytest.raises(InputError, match="lambdamart and fewer do not compare: they were judged on different queries"):
        evaluate_systems(["lambdamart", "fewer"], home=home)


def test_systems_of_the_main_job_compare_by_name(mlflow_home, files, rows, ranker_folders, tmp_path):
    qrels = rows.select("qid", "docid", "relevance")
    run = ranked(rows.filter(pl.col("docid") < "d10").select("qid", "docid", score="overlap"))
    run.write_parquet(tmp_path / "run.parquet")
    names = ["ndcg_cut_10", "ndcg_exp_cut_10", "recip_rank", "recall_100"]
    per_query = judge({"overlap": run}, qrels, metrics=names)["overlap"].per_query.select("qid", *names)
    system = System(
        name="overlap", stage="retrieve", key="k", params={}, per_query={"test": per_query},
        metrics={"ndcg_cut_10": 0.5}, ci95=(0.4, 0.6), ms_per_query=1, stage_ms={"overlap": 1.0}, ndcg_by_k={10: 0.5},
        run=tmp_path / "run.parquet",
    )  # fmt: skip
    board = Leaderboard(
        "corpus", "c" * 64, "test", "zero", 40, [system], "overlap", "overlap", {}, judged_on=fingerprints_of(qrels)
    )
    Tracker(mlflow_home).log(board)
    found = evaluate_systems(
        ["overlap", f"trees={files / 'lambdamart.run'}"], home=mlflow_home, qrels=files / "little.qrels"
    )
    assert (found.dataset, found.fingerprint) == ("corpus", "c" * 64)
    # It ranked fewer documents, which is said; and only the metrics that both have are compared.
    assert {s.name: s.label for s in found.evaluation.systems} == {"overlap": "A", "trees": "B"}
    assert found.evaluation.metrics == ("ndcg_cut_10", "ndcg_exp_cut_10", "recip_rank")
    expected = evaluate({"overlap": run}, qrels, metrics=("ndcg_cut_10",)).systems[0].metrics["ndcg_cut_10"]
    assert found.evaluation.system("overlap").metrics["ndcg_cut_10"] == expected
    with pytest.raises(InputError, match="overlap: has no figures a query of map"):
        evaluate_systems(["overlap"], home=mlflow_home, metrics=["map"])


@pytest.mark.parametrize(
    ("systems", "options", "why"),
    [
        ([], {}, "name at least one run file"),
        (["lambdamart.run", "other/lambdamart.run"], {}, "two systems are called 'lambdamart'"),
        (["lambdamart.run"], {"qrels": None}, "no judgements to evaluate by"),
        (["ranker"], {}, "is a ranker; give --features"),
        (["nowhere"], {}, "nowhere: no such file or folder, and nothing is tracked"),
        (["models:/x/1"], {"features": "rows.parquet"}, "nothing is tracked"),
        (["ranker"], {"features": "nothing.parquet"}, "nothing.parquet: no such file"),
        (["ranker"], {"features": "little.parquet"}, "cannot be read as Parquet"),
        (["ranker"], {"features": "narrow.parquet"}, "age"),
        (["lambdamart.run"], {"metrics": ["ndcg@10"]}, "unknown metric 'ndcg@10'"),
        (["lambdamart.run"], {"kinds": ["topic"]}, "unknown kind of query 'topic'"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_and_writes_nothing(
    files, rows, ranker_folders, tmp_path, monkeypatch, systems, options, why
):
    work = tmp_path / "work"
    (work / "other").mkdir(parents=True)
    for name in ("lambdamart.run", "little.qrels", "rows.parquet"):
        shutil.copy(files / name, work)
    shutil.copy(files / "lambdamart.run", work / "other")
    shutil.copytree(ranker_folders["lambdamart"], work / "ranker")
    shutil.copy(files / "little.qrels", work / "little.parquet")
    rows.drop("age", "relevance").write_parquet(work / "narrow.parquet")
    monkeypatch.chdir(work)
    before = sorted(tmp_path.rglob("*"))
    given = {"qrels": "little.qrels", **options}
    paths = {key: Path(value) for key, value in given.items() if key in ("qrels", "features") and value}
    rest = {key: value for key, value in given.items() if key not in ("qrels", "features")}
    with pytest.raises(InputError, match=why) as caught:
        evaluate_systems(systems, home=tmp_path / "home", **paths, **rest)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_altered_ranker_folder_is_refused(files, ranker_folders, tmp_path):
    shutil.copytree(ranker_folders["lambdamart"], tmp_path / "ranker")
    trees = tmp_path / "ranker" / "model.txt"
    trees.write_bytes(trees.read_bytes()[:-40])
    with pytest.raises(IntegrityError, match=r"model\.txt: truncated or altered"):
        evaluate_systems([str(tmp_path / "ranker")], home=tmp_path / "home", features=files / "judged.parquet")


def test_a_home_that_cannot_be_tracked_in_costs_a_warning_and_not_the_figures(files, tmp_path, caplog):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mlflow.db").write_bytes(b"no database" * 100)
    found = evaluate_systems([str(files / "ranknet.run")], home=tmp_path / "home", qrels=files / "little.qrels")
    assert found.runs is None
    assert found.evaluation.queries == 40
    assert "not tracked" in caplog.text


@pytest.mark.slow
def test_the_command_prints_tables_of_eighty_columns_and_one_json_object(home, files, ranker_folders):
    arguments = [
        "evaluate", files / "blend.run", files / "ranknet.run", f"short={ranker_folders['lambdamart']}",
        "--qrels", files / "little.qrels", "--features", files / "rows.parquet", "--queries", files / "queries.jsonl",
        "--metrics", "ndcg_exp_cut_10,ndcg_cut_10,map", "--blank", "one", "--kinds", "topic,form",
    ]  # fmt: skip
    shown = cascade(*arguments, home=home)
    assert shown.returncode == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    for words in ("40 queries", "pair by pair", "by kind of query", "question", "kept in MLflow as run"):
        assert words in shown.stdout
    done = cascade(*arguments, "--json", home=home)
    found = json.loads(done.stdout)
    assert {system["name"] for system in found["systems"]} == {"blend", "ranknet", "short"}
    assert {group["kind"] for group in found["groups"]} == {"topic", "form"}
    assert len(found["pairs"]) == 3
    assert set(found["runs"]["systems"]) == {"blend", "ranknet", "short"}
    assert np.isfinite([pair["p_holm"] for pair in found["pairs"]]).all()
    refused = cascade("evaluate", "nowhere", "--qrels", files / "little.qrels", home=home)
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_compare_shows_evaluations_with_their_labels_and_registry_aliases(home, files, tmp_path):
    lines = (files / "ranknet.run").read_text().splitlines()
    (tmp_path / "half.run").write_text("\n".join(line for line in lines if " d03 " not in line) + "\n")
    evaluate_systems(
        ["lambdamart", str(tmp_path / "half.run")], home=home, qrels=files / "little.qrels", metrics=["map"]
    )
    runs, evaluated = overview(home, "little")
    assert runs == []
    latest = evaluated[0]
    assert (latest.dataset, latest.metric, latest.queries) == ("little", "map", 40)
    labels = {row.name: row.label for row in latest.rows}
    assert labels["lambdamart"] != labels["half"]
    assert sorted(labels.values()) == ["A", "B"]
    shown = cascade("compare", "little", home=home).stdout
    assert max(map(len, [line for line in shown.splitlines() if "sqlite" not in line])) <= 80
    [line] = [line for line in shown.splitlines() if line.strip().startswith("half")]
    assert "half (" in line
    assert "champion 1" in shown
    assert "different candidates" in shown
    loaded = json.loads(cascade("compare", "--json", home=home).stdout)
    assert loaded["datasets"] == []
    assert [row["name"] for row in loaded["evaluations"][0]["rows"]] == [row.name for row in latest.rows]
    with pytest.raises(InputError, match="'trec'; it holds"):
        overview(home, "trec")
