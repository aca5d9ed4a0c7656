"""Models come back from the registry verified, unpickled by nobody, and score as they did."""

import hashlib
import importlib.util
import json
import py_compile
import shutil
import sys
from pathlib import Path

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from pipeline.evaluation import evaluate
from pipeline.tracking import Extras, Tracker
from rankers.artifact import load_ranker
from retrieval.errors import InputError, IntegrityError

KINDS = ("lambdamart", "ranknet", "listnet+attention", "blend")
FEATURES = ("overlap", "cosine", "length", "age")


def uri_of(home: Path) -> str:
    return f"sqlite:///{home}/mlflow.db"


def client(home: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=uri_of(home), registry_uri=uri_of(home))


@pytest.fixture(scope="module")
def logged(mlflow_template, rows, ranker_folders, tmp_path_factory):
    """A home where every ranker was evaluated and put forward: (home, run ids, promotions)."""
    home = tmp_path_factory.mktemp("logged")
    shutil.copy(mlflow_template / "mlflow.db", home / "mlflow.db")
    runs = {
        name: rows.select("qid", "docid", score=pl.Series(load_ranker(folder).score(rows), dtype=pl.Float32))
        for name, folder in ranker_folders.items()
    }
    evaluation = evaluate(runs, rows.select("qid", "docid", "relevance"), metrics=("ndcg_cut_10",))
    extras = {name: Extras(key=f"key of {name}", ranker=folder) for name, folder in ranker_folders.items()}
    tracker = Tracker(home)
    found = tracker.log_evaluation(evaluation, dataset="little", fingerprint="f" * 64, extras=extras)
    promotions = {
        name: tracker.promote_run(found.systems[name], dataset="little", fingerprint="f" * 64, blank="zero")
        for name in KINDS
    }
    return home, found.systems, promotions


@pytest.fixture
def damaged(logged, tmp_path):
    """A copy of that home to damage, and where it keeps the model of a ranker."""
    home, _, promotions = logged
    # Artifact locations are absolute: the home is moved aside, and put back.
    aside = tmp_path / "aside"
    shutil.copytree(home, aside)

    def folder(name: str) -> tuple[Tracker, str, Path]:
        promotion = promotions[name]
        version = client(home).get_model_version(promotion.model, promotion.version)
        return (
            Tracker(home),
            f"models:/{promotion.model}/{promotion.version}",
            Path(version.source.removeprefix("file://")),
        )

    yield folder
    shutil.rmtree(home)
    shutil.copytree(aside, home)


@pytest.mark.parametrize("name", KINDS)
def test_every_way_to_name_a_model_gives_its_scores(logged, rows, ranker_folders, tmp_path, name):
    home, run_ids, promotions = logged
    promotion, reader = promotions[name], client(home)
    model_id = reader.get_run(run_ids[name]).data.tags["cascade.model_id"]
    stored = reader.get_logged_model(model_id).name
    uris = [f"models:/{promotion.model}/{promotion.version}", f"models:/{model_id}", f"runs:/{run_ids[name]}/{stored}"]
    expected = load_ranker(ranker_folders[name]).score(rows)
    assert np.isnan(rows["cosine"].to_numpy()).sum() > 50
    for number, uri in enumerate(uris):
        model = Tracker(home).load_model(uri, tmp_path / str(number))
        assert model.feature_names == FEATURES
        assert model.place.model_id == model_id
        assert np.abs(model.score(rows) - expected).max() <= 1e-6
    backwards = rows.select(reversed(rows.columns)).with_columns(pl.col("cosine").fill_nan(None), noise=pl.lit("x"))
    assert np.abs(model.score(backwards) - expected).max() <= 1e-6
    doubles = rows.with_columns(pl.col(FEATURES).cast(pl.Float64))
    assert np.abs(model.score(doubles) - expected).max() <= 1e-6
    assert model.score(rows.head(1)).shape == (1,)


def test_missing_columns_are_named(logged, rows, tmp_path):
    home, _, promotions = logged
    model = Tracker(home).load_model(f"models:/{promotions['blend'].model}@champion", tmp_path / "model")
    with pytest.raises(InputError, match="the features lack overlap, age, which it reads") as caught:
        model.score(rows.drop("overlap", "age"))
    assert "\n" not in str(caught.value)


def test_loading_leaves_the_import_path_as_it_was(logged, tmp_path):
    home, _, promotions = logged
    before = list(sys.path)
    Tracker(home).load_model(f"models:/{promotions['ranknet'].model}/1", tmp_path / "model")
    assert sys.path == before


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("models:/nothing/1", "no such model here"),
        ("models:/nothing@champion", "no such model here"),
        (f"models:/m-{'0' * 32}", "no such model here"),
        (f"runs:/{'0' * 32}/model", "no such model here"),
        ("models:/half", "must be models:/NAME/VERSION"),
        ("runs:/half", "must be models:/NAME/VERSION"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(mlflow_home, tmp_path, uri, why):
    with pytest.raises(InputError, match=why) as caught:
        Tracker(mlflow_home).load_model(uri, tmp_path / "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("lambdamart", "artifacts/ranker/model.txt"),
        ("lambdamart", "artifacts/lambdamart/model.txt"),
        ("ranknet", "model.safetensors"),
        ("ranknet", "mlflow_ranker.py"),
        ("listnet+attention", "MLmodel"),
        ("blend", "model.txt"),
        ("blend", "trees.py"),
    ],
)
def test_an_altered_file_is_refused_by_name_before_anything_parses_it(damaged, tmp_path, name, file):
    tracker, uri, folder = damaged(name)
    path = next(path for path in sorted(folder.rglob("*")) if path.is_file() and path.name == Path(file).name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match=rf"{path.name}' has been altered"):
        tracker.load_model(uri, tmp_path / "model")


def test_truncated_missing_and_added_files_are_refused(damaged, tmp_path):
    tracker, uri, folder = damaged("lambdamart")
    trees = next(folder.rglob("model.txt"))
    content = trees.read_bytes()
    trees.write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match=r"model\.txt' has \d+ bytes, not the"):
        tracker.load_model(uri, tmp_path / "truncated")
    trees.unlink()
    with pytest.raises(IntegrityError, match=r"model\.txt' is missing"):
        tracker.load_model(uri, tmp_path / "missing")
    trees.write_bytes(content)
    (folder / "code" / "sitecustomize.py").write_text("raise SystemExit")
    with pytest.raises(IntegrityError, match=r"sitecustomize\.py' does not belong here"):
        tracker.load_model(uri, tmp_path / "added")


def test_a_list_of_files_that_was_rewritten_to_fit_is_refused(damaged, tmp_path):
    tracker, uri, folder = damaged("lambdamart")
    files = folder / "cascade_files.json"
    listed = json.loads(files.read_text())
    trees = next(folder.rglob("model.txt"))
    trees.write_bytes(trees.read_bytes() + b" ")
    name = trees.relative_to(folder).as_posix()
    listed[name] = {"bytes": trees.stat().st_size, "sha256": hashlib.sha256(trees.read_bytes()).hexdigest()}
    files.write_text(json.dumps(listed, sort_keys=True, indent=2) + "\n")
    with pytest.raises(IntegrityError, match="list of files"):
        tracker.load_model(uri, tmp_path / "model")


def test_compiled_source_that_was_planted_beside_it_never_runs(damaged, rows, tmp_path):
    """Python takes a .pyc whose recorded time fits the source; the list of files knows of none."""
    tracker, uri, folder = damaged("ranknet")
    source = next(folder.rglob("mlflow_ranker.py"))
    canary = tmp_path / "canary"
    evil = tmp_path / "mlflow_ranker.py"
    evil.write_text(f"open({str(canary)!r}, 'w').close()\n")
    planted = Path(importlib.util.cache_from_source(str(source)))
    planted.parent.mkdir(exist_ok=True)
    py_compile.compile(str(evil), cfile=str(planted), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    model = tracker.load_model(uri, tmp_path / "model")
    assert model.score(rows).shape == (rows.height,)
    assert not canary.exists()


class Canary(mlflow.pyfunc.PythonModel):
    """Unpickling it would write a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))

    def predict(self, context, model_input, params=None):
        return np.zeros(len(model_input))


@pytest.fixture
def fluent(mlflow_home):
    """MLflow's global stores on the test's home, as other people's training code has them."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(uri_of(mlflow_home))
    mlflow.set_registry_uri(uri_of(mlflow_home))
    mlflow.set_experiment(
        experiment_id=client(mlflow_home).create_experiment("theirs", (mlflow_home / "theirs").as_uri())
    )
    yield mlflow_home
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


SIGNATURE = ModelSignature(Schema([ColSpec("double", name) for name in FEATURES]), Schema([ColSpec("double")]))


def test_a_pickled_model_is_refused_and_never_unpickled(fluent, tmp_path):
    canary = tmp_path / "canary"
    info = mlflow.pyfunc.log_model(
        name="theirs", python_model=Canary(str(canary)), signature=SIGNATURE, pip_requirements=["mlflow"]
    )
    with pytest.raises(InputError, match=r"pickle.*nothing is unpickled here.*python_model='model\.py'") as caught:
        Tracker(fluent).load_model(info.model_uri, tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not canary.exists()
    # MLflow itself refuses too: the session's environment forbids it.
    with pytest.raises(mlflow.exceptions.MlflowException, match="disallowed"):
        mlflow.pyfunc.load_model(info.model_uri)
    assert not canary.exists()


def test_a_flavour_that_needs_a_pickle_is_refused_by_name(fluent, rows, tmp_path):
    from sklearn.linear_model import LinearRegression

    x = rows.select(FEATURES).fill_nan(0).to_pandas()
    model = LinearRegression().fit(x, rows["relevance"].to_numpy())
    info = mlflow.sklearn.log_model(
        model, name="theirs", signature=SIGNATURE, pip_requirements=["scikit-learn"], serialization_format="cloudpickle"
    )
    with pytest.raises(InputError, match=r"flavour mlflow\.sklearn would have to be unpickled"):
        Tracker(fluent).load_model(info.model_uri, tmp_path / "model")


@pytest.mark.slow
def test_other_peoples_boosters_are_scored_and_a_damaged_one_aborts_only_a_child(fluent, rows, tmp_path, caplog):
    x = rows.select(FEATURES).to_pandas()
    data = lightgbm.Dataset(x, rows["relevance"].to_numpy())
    booster = lightgbm.train({"verbosity": -1, "num_leaves": 7}, data, num_boost_round=5)
    info = mlflow.lightgbm.log_model(
        booster, name="theirs", signature=SIGNATURE, pip_requirements=["lightgbm"], registered_model_name="shop"
    )
    model = Tracker(fluent).load_model("models:/shop/1", tmp_path / "model")
    assert np.abs(model.score(rows) - booster.predict(x)).max() <= 1e-6
    assert "carries no checksum" in caplog.text
    with pytest.raises(InputError, match="lack cosine"):
        model.score(rows.drop("cosine"))
    location = Path(client(fluent).get_logged_model(info.model_id).artifact_location.removeprefix("file://"))
    [path] = location.glob("model.lgb")
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(IntegrityError, match="cannot load it: the file is damaged"):
        Tracker(fluent).load_model("models:/shop/1", tmp_path / "damaged")


def test_a_model_among_a_runs_own_artifacts_is_found(logged, rows, ranker_folders, fluent, tmp_path):
    """As MLflow 2 kept models, and as a user may have copied one."""
    home, run_ids, _ = logged
    place = client(home).get_logged_model(client(home).get_run(run_ids["ranknet"]).data.tags["cascade.model_id"])
    with mlflow.start_run() as run:
        mlflow.log_artifacts(place.artifact_location.removeprefix("file://"), "old/model")
    model = Tracker(fluent).load_model(f"runs:/{run.info.run_id}/old/model", tmp_path / "model")
    assert np.abs(model.score(rows) - load_ranker(ranker_folders["ranknet"]).score(rows)).max() <= 1e-6
    with pytest.raises(IntegrityError, match="its files are not at"):
        Tracker(fluent).load_model(f"runs:/{run.info.run_id}/new/model", tmp_path / "none")


def test_a_model_without_named_columns_is_refused(fluent, rows, tmp_path):
    source = tmp_path / "model.py"
    source.write_text(
        "import mlflow\n"
        "class Sum(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return model_input.sum(axis=1)\n"
        "mlflow.models.set_model(Sum())\n"
    )
    bare = mlflow.pyfunc.log_model(name="bare", python_model=str(source), pip_requirements=["mlflow"])
    with pytest.raises(InputError, match="no signature with names"):
        Tracker(fluent).load_model(bare.model_uri, tmp_path / "bare")
    named = mlflow.pyfunc.log_model(
        name="named", python_model=str(source), signature=SIGNATURE, pip_requirements=["mlflow"]
    )
    model = Tracker(fluent).load_model(named.model_uri, tmp_path / "named")
    expected = rows.select(FEATURES).to_pandas().sum(axis=1)
    assert np.abs(model.score(rows) - expected).max() <= 1e-5
    with pytest.raises(InputError, match="reads age as a number, which is String here"):
        model.score(rows.with_columns(age=pl.lit("old")))
    assert isinstance(expected, pd.Series)
