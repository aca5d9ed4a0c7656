import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import polars as pl
import pytest

from pipeline.results import Leaderboard, System, Versus
from pipeline.tracking import Tracker
from rankers.artifact import load_ranker
from rankers.training import fit_ranknet
from rankers.trees import fit_lambdamart
from retrieval.errors import CascadeError, InputError

ROOT = Path(__file__).resolve().parents[2]
FEATURES = ("overlap", "cosine", "length")
PICKLES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".npy"}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A home whose database has its tables: making them is the slow part of a first use."""
    home = tmp_path_factory.mktemp("template")
    Tracker(home)
    return home


@pytest.fixture
def home(template, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(template / "mlflow.db", home / "mlflow.db")
    return home


@pytest.fixture(scope="module")
def labelled():
    """FEATURES of 30 queries with 12 documents, with a relevance that the features tell of."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(360, 3)).astype(np.float32)
    x[::7, 1] = np.nan
    return pl.DataFrame(
        {
            "qid": [f"q{row // 12:02d}" for row in range(360)],
            "docid": [f"d{row % 12:02d}" for row in range(360)],
            **{name: x[:, place] for place, name in enumerate(FEATURES)},
            "relevance": pl.Series((x[:, 0] > 0.8).astype(np.int32)),
        }
    )


@pytest.fixture(scope="module")
def learned(labelled, tmp_path_factory):
    """The folder of a stored ranker of each kind."""
    rows = []
    fits = {
        "lambdamart": lambda log: fit_lambdamart(
            labelled, labelled, feature_names=FEATURES, log=log, rounds=5, min_data_in_leaf=5
        ),
        "ranknet": lambda log: fit_ranknet(labelled, labelled, feature_names=FEATURES, log=log, epochs=2),
    }
    folders = {}
    for name, fit in fits.items():
        folders[name] = tmp_path_factory.mktemp(name) / "ranker"
        fit(lambda metrics, step: rows.append((step, metrics))).save(folders[name])
    assert rows
    return folders


def figures(mean: float, queries: int = 40, seed: int = 0) -> pl.DataFrame:
    """NDCG a query around `mean`, with one query that has nothing relevant."""
    values = np.clip(np.random.default_rng(seed).normal(mean, 0.05, queries), 0, 1)
    qids = [f"q{number}" for number in range(queries)]
    blank = pl.when(pl.col("qid") != "q0").then(pl.col("ndcg_cut_10"))
    return pl.DataFrame({"qid": qids, "ndcg_cut_10": values}).with_columns(ndcg_cut_10=blank)


def system(name: str, valid: float | None = 0.5, *, key: str | None = None, test: float = 0.5, **fields) -> System:
    splits = {"test": figures(test, seed=1)} | ({} if valid is None else {"valid": figures(valid, seed=2)})
    defaults = {"stage": "retrieve", "stage_ms": {name: 1.5}, "ranker": None, "curve": None, "importance": {}}
    return System(
        name=name,
        key=key or f"key of {name}",
        params={"depth": 100, "language": "en"},
        per_query=splits,
        metrics={"ndcg_cut_10": test, "recip_rank": test + 0.1},
        ci95=(test - 0.02, test + 0.02),
        ms_per_query=1.5,
        ndcg_by_k={1: test - 0.1, 10: test, 100: test + 0.1},
        **(defaults | fields),
    )


def board(*systems: System, selected: str | None = None, **fields) -> Leaderboard:
    versus = {system.name: Versus(0.01, (-0.01, 0.03), 0.2) for system in systems[1:]}
    defaults = {"dataset": "little set", "fingerprint": "f" * 64, "split": "dev", "blank": "zero", "queries": 40}
    return Leaderboard(
        systems=systems, baseline=systems[0].name, selected=selected or systems[-1].name,
        **({"versus": versus, "notes": ["no train split"]} | defaults | fields),
    )  # fmt: skip


def with_ranker(folder: Path, name: str = "lambdamart") -> System:
    curve = pl.DataFrame({"step": [1, 2, 3], "valid_ndcg@10": [0.3, None, 0.5]})
    return system(name, stage="rank", ranker=folder, curve=curve, importance={"overlap": 2.0, "cosine": 0.5})


def put_forward(tracker: Tracker, leaderboard: Leaderboard):
    return tracker.promote(leaderboard, tracker.log(leaderboard))


def client(home: Path) -> mlflow.MlflowClient:
    uri = f"sqlite:///{home}/mlflow.db"
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def aliases(home: Path, model: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client(home).get_registered_model(model).aliases.items()}


def all_runs(home: Path) -> list:
    reader = client(home)
    return reader.search_runs([experiment.experiment_id for experiment in reader.search_experiments()])


def test_what_is_known_of_a_system_is_on_its_run(home, learned):
    leaderboard = board(system("bm25", 0.4), with_ranker(learned["lambdamart"]))
    run_id = Tracker(home).log(leaderboard)["lambdamart"]
    run = client(home).get_run(run_id)
    parent = client(home).get_run(run.data.tags["mlflow.parentRunId"])
    assert client(home).get_experiment(run.info.experiment_id).name == "little set"
    assert parent.data.tags["cascade.fingerprint"] == "f" * 64
    assert run.data.params == {"depth": "100", "language": "en", "blank": "zero"}
    metrics = run.data.metrics
    assert metrics["test.ndcg_cut_10"] == 0.5
    assert metrics["test.recip_rank"] == 0.6
    assert (metrics["test.ndcg_cut_10_low"], metrics["test.ndcg_cut_10_high"]) == (0.48, 0.52)
    assert (metrics["test.difference"], metrics["test.p_value"]) == (0.01, 0.2)
    assert metrics["ms_per_query"] == metrics["ms.lambdamart"] == 1.5
    # A query with nothing relevant counts zero in the mean, and stays null in the artifact.
    valid = figures(0.5, seed=2)
    assert math.isclose(metrics["valid.ndcg_cut_10"], valid["ndcg_cut_10"].sum() / 40)
    stored = pl.read_parquet(client(home).download_artifacts(run_id, "per_query/valid.parquet"))
    assert stored.equals(valid)
    assert [data.dataset.digest for data in run.inputs.dataset_inputs] == ["f" * 36]


def test_curves_keep_their_steps_and_lose_their_gaps(home, learned):
    run_id = Tracker(home).log(board(with_ranker(learned["lambdamart"])))["lambdamart"]
    curve = client(home).get_metric_history(run_id, "curve.valid_ndcg_10")
    by_k = client(home).get_metric_history(run_id, "test.ndcg_by_k")
    assert sorted((point.step, point.value) for point in curve) == [(1, 0.3), (3, 0.5)]
    assert sorted((point.step, point.value) for point in by_k) == [(1, 0.4), (10, 0.5), (100, 0.6)]


def test_a_long_curve_takes_several_batches(home):
    curve = pl.DataFrame({"step": range(1, 2502), "loss": np.linspace(1, 0, 2501)})
    run_id = Tracker(home).log(board(system("ranknet", curve=curve)))["ranknet"]
    steps = [point.step for point in client(home).get_metric_history(run_id, "curve.loss")]
    assert sorted(steps) == list(range(1, 2502))


@pytest.mark.parametrize("name", ["lambdamart", "ranknet"])
def test_the_model_loaded_back_gives_the_same_scores(home, learned, labelled, name):
    leaderboard = board(with_ranker(learned[name], name))
    tracker = Tracker(home)
    promotion = put_forward(tracker, leaderboard)
    source = client(home).get_model_version(promotion.model, promotion.version).source
    model = mlflow.pyfunc.load_model(source)
    features = labelled.drop("relevance")
    expected = load_ranker(learned[name]).score(features)
    pandas = features.to_pandas()
    assert np.abs(model.predict(pandas) - expected).max() <= 1e-6
    doubles = pandas.astype(dict.fromkeys(FEATURES, "float64"))
    assert np.abs(model.predict(doubles[list(reversed(doubles.columns))]) - expected).max() <= 1e-6
    assert model.metadata.signature.inputs.input_names() == ["qid", "docid", *FEATURES]


def test_a_system_that_learned_nothing_hands_on_its_stages_score(home):
    promotion = put_forward(Tracker(home), board(system("fused")))
    model = mlflow.pyfunc.load_model(client(home).get_model_version(promotion.model, promotion.version).source)
    scores = pl.DataFrame({"fused_stage_score": [0.5, -1.0, 3.0]}).to_pandas()
    assert model.predict(scores).tolist() == [0.5, -1.0, 3.0]


def test_a_logged_model_needs_nothing_of_this_checkout(home, learned, labelled, tmp_path):
    promotion = put_forward(Tracker(home), board(with_ranker(learned["lambdamart"])))
    source = client(home).get_model_version(promotion.model, promotion.version).source
    labelled.drop("relevance").write_parquet(tmp_path / "features.parquet")
    code = (
        "import sys, mlflow, polars as pl\n"
        "scores = mlflow.pyfunc.load_model(sys.argv[1]).predict(pl.read_parquet(sys.argv[2]).to_pandas())\n"
        "import rankers\n"
        "print(rankers.__file__); print(scores.tolist())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, source, str(tmp_path / "features.parquet")],
        cwd=tmp_path,
        env=environment | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    where, scores = done.stdout.splitlines()
    assert Path(where).is_relative_to(home)
    expected = load_ranker(learned["lambdamart"]).score(labelled)
    assert np.abs(np.array(json.loads(scores)) - expected).max() <= 1e-6


def test_nothing_is_pickled_and_nothing_is_written_elsewhere(home, learned, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    leaderboard = board(system("bm25"), *(with_ranker(folder, name) for name, folder in learned.items()))
    put_forward(Tracker(home), leaderboard)
    files = [path for path in (home / "artifacts").rglob("*") if path.is_file()]
    assert {"ranker.json", "model.txt", "model.safetensors", "mlflow_ranker.py"} <= {path.name for path in files}
    assert [path for path in files if path.suffix in PICKLES] == []
    # Every pickle since protocol 2 begins with 0x80 and its protocol's number.
    begins = {path: path.read_bytes()[:2] for path in files}
    assert [path for path, two in begins.items() if two[:1] == b"\x80" and two[1:] <= b"\x05"] == []
    assert list(elsewhere.iterdir()) == []
    assert not (ROOT / "mlruns").exists()


def test_plots_and_the_leaderboard_are_on_the_parent_run(home, learned):
    leaderboard = board(system("bm25"), with_ranker(learned["lambdamart"]))
    run_id = Tracker(home).log(leaderboard)["bm25"]
    parent = client(home).get_run(run_id).data.tags["mlflow.parentRunId"]
    plots = {file.path.removeprefix("plots/") for file in client(home).list_artifacts(parent, "plots")}
    of_one = {"importance_lambdamart.png", "learning_curve_lambdamart.png"}
    assert plots == {"ndcg_by_k.png", "latency.png"} | of_one
    stored = Path(client(home).download_artifacts(parent, "leaderboard.json")).read_text()
    assert json.loads(stored) == json.loads(json.dumps(leaderboard.as_json()))


def test_logging_unchanged_work_writes_nothing(home):
    leaderboard = board(system("bm25"), system("dense"))
    first = Tracker(home).log(leaderboard)
    before = (home / "mlflow.db").read_bytes()
    assert Tracker(home).log(leaderboard) == first
    assert (home / "mlflow.db").read_bytes() == before
    assert len(all_runs(home)) == 3


def test_only_the_system_that_changed_is_logged_anew(home):
    tracker = Tracker(home)
    first = tracker.log(board(system("bm25"), system("dense")))
    second = tracker.log(board(system("bm25"), system("dense", key="another encoder")))
    assert first["bm25"] == second["bm25"]
    assert first["dense"] != second["dense"]
    third = tracker.log(board(system("bm25"), system("dense")))
    assert third == first


def test_other_data_and_another_blank_policy_are_runs_of_their_own(home):
    tracker = Tracker(home)
    first = tracker.log(board(system("bm25")))
    other_data = tracker.log(board(system("bm25"), fingerprint="e" * 64))
    other_blank = tracker.log(board(system("bm25"), blank="skip"))
    assert len({first["bm25"], other_data["bm25"], other_blank["bm25"]}) == 3
    assert len(tracker.data_sets()) == 2
    skipped = client(home).get_run(other_blank["bm25"]).data.metrics["valid.ndcg_cut_10"]
    assert math.isclose(skipped, figures(0.5, seed=2)["ndcg_cut_10"].drop_nulls().mean())


def test_a_standing_follows_the_systems_beside_it(home):
    tracker = Tracker(home)
    tracker.log(board(system("bm25"), system("dense")))
    harder = {"dense": Versus(0.01, (-0.01, 0.03), 0.6)}
    run_id = tracker.log(board(system("bm25"), system("dense"), versus=harder))["dense"]
    assert client(home).get_run(run_id).data.metrics["test.p_value"] == 0.6


def test_a_system_whose_logging_failed_is_logged_again(home, tmp_path):
    tracker = Tracker(home)
    with pytest.raises(CascadeError, match=r"ranker\.json"):
        tracker.log(board(system("bm25"), with_ranker(tmp_path / "gone")))
    assert sorted(run.info.status for run in all_runs(home)) == ["FAILED", "FINISHED", "RUNNING"]
    whole = tracker.log(board(system("bm25"), system("lambdamart")))
    assert client(home).get_run(whole["lambdamart"]).info.status == "FINISHED"


def test_the_first_system_is_champion_and_stays_so_unchanged(home):
    tracker = Tracker(home)
    first = put_forward(tracker, board(system("bm25")))
    assert (first.champion, first.status, first.previous, first.p_value) == ("bm25", "champion", None, None)
    again = put_forward(Tracker(home), board(system("bm25")))
    assert (again.champion, again.status, again.version) == ("bm25", "unchanged", first.version)
    assert len(client(home).search_model_versions()) == 1


def test_a_better_system_replaces_the_champion(home):
    tracker = Tracker(home)
    first = put_forward(tracker, board(system("bm25", 0.4)))
    second = put_forward(tracker, board(system("bm25", 0.4), system("lambdamart", 0.6)))
    assert (second.champion, second.status, second.previous) == ("lambdamart", "champion", "bm25")
    # One blank query of 40 counts zero for both; clipping touches no value.
    assert math.isclose(second.difference, 0.2 * 39 / 40)
    assert second.p_value < 0.05
    assert aliases(home, second.model) == {"champion": second.version, "previous": first.version}
    assert "lambdamart (version 2) replaces bm25 (version 1)" in second.reason


@pytest.mark.parametrize("valid", [0.4, 0.3])
def test_a_system_no_better_stays_a_challenger(home, valid):
    """Worse by far is as significant as better: the sign must count."""
    tracker = Tracker(home)
    put_forward(tracker, board(system("bm25", 0.4)))
    second = put_forward(tracker, board(system("bm25", 0.4), system("dense", valid)))
    assert (second.champion, second.status, second.previous) == ("bm25", "challenger", "bm25")
    assert math.isclose(second.difference, (valid - 0.4) * 39 / 40, abs_tol=1e-12)
    assert aliases(home, second.model) == {"champion": "1", "challenger": "2"}


def test_test_figures_decide_nothing(home):
    tracker = Tracker(home)
    put_forward(tracker, board(system("bm25", 0.5, test=0.1)))
    assert put_forward(tracker, board(system("dense", 0.5, test=0.9))).status == "challenger"
    better = put_forward(tracker, board(system("fused", 0.7, test=0.0)))
    assert (better.status, better.previous) == ("champion", "bm25")


def test_a_challenger_that_wins_later_is_no_longer_a_challenger(home):
    tracker = Tracker(home)
    put_forward(tracker, board(system("fused", 0.6)))
    put_forward(tracker, board(system("dense", 0.4)))
    put_forward(tracker, board(system("lambdamart", 0.8)))
    promotion = put_forward(tracker, board(system("fused", 0.6)))
    assert (promotion.champion, promotion.status, promotion.version) == ("lambdamart", "challenger", "1")
    assert aliases(home, promotion.model) == {"champion": "3", "previous": "1", "challenger": "1"}


def test_without_validation_queries_the_champion_stays(home):
    tracker = Tracker(home)
    put_forward(tracker, board(system("bm25", None)))
    second = put_forward(tracker, board(system("fused", None, test=0.9)))
    assert (second.champion, second.status, second.p_value) == ("bm25", "challenger", None)
    assert "no validation figures" in second.reason


def test_systems_judged_on_other_queries_are_not_compared(home):
    tracker = Tracker(home)
    put_forward(tracker, board(system("bm25", 0.4)))
    more = system("fused")
    more = replace(more, per_query={**more.per_query, "valid": figures(0.9, queries=50)})
    second = put_forward(tracker, board(more))
    assert (second.status, second.champion) == ("challenger", "bm25")
    assert "different validation queries" in second.reason


def test_each_data_set_has_its_own_champion_and_bundle(home):
    tracker = Tracker(home)
    ours = put_forward(tracker, board(system("bm25", 0.4)))
    theirs = put_forward(tracker, board(system("dense", 0.9), fingerprint="e" * 64))
    assert ours.model != theirs.model
    assert tracker.champion_bundle("f" * 64) is None
    tracker.set_bundle(ours, "bundle-1")
    assert (tracker.champion_bundle("f" * 64), tracker.champion_bundle("e" * 64)) == ("bundle-1", None)
    assert tracker.champion_bundle("0" * 64) is None
    better = put_forward(tracker, board(system("fused", 0.7)))
    assert tracker.champion_bundle("f" * 64) is None
    tracker.set_bundle(better, "bundle-2")
    challenger = put_forward(tracker, board(system("dense", 0.5)))
    tracker.set_bundle(challenger, "bundle-3")
    assert Tracker(home).champion_bundle("f" * 64) == "bundle-2"


@pytest.mark.parametrize("content", [b"not a database, whatever its name says" * 50, "foreign"])
def test_a_file_that_is_no_database_of_mlflow_is_named(tmp_path, content):
    database = tmp_path / "mlflow.db"
    if isinstance(content, bytes):
        database.write_bytes(content)
    else:
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE notes (text)")
    before = database.read_bytes()
    with pytest.raises(CascadeError, match=r"mlflow\.db") as caught:
        Tracker(tmp_path)
    assert "\n" not in str(caught.value)
    assert database.read_bytes() == before


def test_a_truncated_database_is_named(home):
    content = (home / "mlflow.db").read_bytes()
    (home / "mlflow.db").write_bytes(content[: len(content) // 2])
    with pytest.raises(CascadeError, match=r"mlflow\.db"):
        put_forward(Tracker(home), board(system("bm25")))


def test_an_altered_validation_file_is_named(home):
    tracker = Tracker(home)
    leaderboard = board(system("bm25"))
    run_id = tracker.log(leaderboard)["bm25"]
    tracker.promote(leaderboard, {"bm25": run_id})
    [path] = (home / "artifacts").rglob(f"{run_id}/**/valid.parquet")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CascadeError, match=r"valid\.parquet"):
        put_forward(tracker, board(system("dense")))


@pytest.mark.parametrize("name", ["50%20off", "why?", "no#1"])
def test_a_home_that_a_uri_cannot_name_is_refused_at_once(tmp_path, name):
    with pytest.raises(InputError, match="another folder"):
        Tracker(tmp_path / name)


def test_a_home_may_have_spaces_and_accents(template, tmp_path):
    home = tmp_path / "mes données"
    home.mkdir()
    shutil.copy(template / "mlflow.db", home)
    assert put_forward(Tracker(home), board(system("bm25"), dataset="beir/été 2")).status == "champion"
    assert put_forward(Tracker(home), board(system("fused", 0.9), dataset="beir/été 2")).status == "champion"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mes données"]


def test_what_a_killed_first_use_left_is_made_anew(template, tmp_path):
    whole = (template / "mlflow.db").read_bytes()
    (tmp_path / ".mlflow.db.new").write_bytes(whole[: len(whole) // 2])
    (tmp_path / ".mlflow.db.new-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(1000))
    (tmp_path / "mlflow.db").touch()
    assert put_forward(Tracker(tmp_path), board(system("bm25"))).status == "champion"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.lock", "artifacts", "mlflow.db"]


def test_processes_that_start_together_make_one_database(tmp_path):
    code = "import sys; from pathlib import Path; from pipeline.tracking import Tracker; Tracker(Path(sys.argv[1]))"
    arguments = [sys.executable, "-c", code, str(tmp_path / "home")]
    both = [
        subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs == ["", ""]
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [".mlflow.lock", "mlflow.db"]
