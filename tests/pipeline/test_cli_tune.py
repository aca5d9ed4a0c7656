"""`cascade tune` on LETOR files, from the command line to MLflow."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline import build
from pipeline.cli import app
from pipeline.mlflow_database import open_client
from pipeline.tune_tracking import STATE, STUDY, TRIAL
from retrieval.errors import InputError
from retrieval.letor import read_letor

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--ranker", "regression", "--folds", "2", "--name", "mine", "--json")


def write_letor(path: Path, queries: int = 100, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    lines = []
    for query in range(queries):
        for _ in range(10):
            grade = int(rng.integers(0, 3))
            values = " ".join(f"{n}:{grade * (n == 1) + rng.normal():.4f}" for n in range(1, 5))
            lines.append(f"{grade} qid:{seed}{query:03} {values}")
    path.write_text("\n".join(lines) + "\n")
    return path


def command(folder: Path, *more: str) -> list[str]:
    return ["tune", "--train", str(folder / "train.txt"), "--home", str(folder / "home"), *QUICK, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tune")
    write_letor(made / "train.txt")
    write_letor(made / "valid.txt", queries=10, seed=1)
    return made


@pytest.fixture(scope="module")
def first(folder: Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, command(folder, "--trials", "8", "--out", str(folder / "settings.json")))
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def runs(folder: Path, study: str = "mine") -> tuple[Any, list[Any], Any]:
    """(the study's run, those of its trials in order, the client)."""
    client = open_client(folder / "home" / "mlflow.db", artifacts=folder / "home" / "artifacts")
    experiment = client.get_experiment_by_name("tuning").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`{STUDY}` = '{study}'")
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return parent, sorted(nested, key=lambda run: int(run.data.tags[TRIAL])), client


def test_the_json_says_what_was_found_and_the_file_is_what_a_ranker_takes(folder: Path, first: dict[str, Any]) -> None:
    assert (first["study"], first["ranker"], first["folds"], first["queries"]) == ("mine", "regression", 2, 100)
    assert sum(first["trials"].values()) == 8
    assert first["best"]["value"] >= first["default"]
    assert first["best"]["settings"] == first["settings"]
    written = json.loads((folder / "settings.json").read_text())
    assert written == {"ranker": first["ranker"], "settings": first["settings"]}
    assert written == json.loads(Path(first["settings_file"]).read_text())
    frame = read_letor([folder / "train.txt"])
    valid = read_letor([folder / "valid.txt"])
    ranker = build.fit_ranker(
        written["ranker"], frame, valid, seed=0, log=lambda metrics, step: None, settings=written["settings"]
    )
    assert ranker.score(valid).shape == (valid.height,)


def test_every_trial_is_a_run_nested_in_the_studys(folder: Path, first: dict[str, Any]) -> None:
    parent, nested, client = runs(folder)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best.cv.ndcg_exp_cut_10"] == first["best"]["value"]
    assert parent.data.metrics["best.trial"] == first["best"]["number"]
    assert [int(run.data.tags[TRIAL]) for run in nested] == list(range(8))
    states = [run.data.tags[STATE] for run in nested]
    assert {state: states.count(state) for state in ("complete", "pruned", "failed")} == first["trials"]
    best = nested[first["best"]["number"]]
    assert best.data.params == {name: str(value) for name, value in first["settings"].items()}
    assert best.data.metrics["cv.ndcg_exp_cut_10"] == first["best"]["value"]
    by_fold = client.get_metric_history(best.info.run_id, "fold.ndcg_exp_cut_10")
    assert [(point.step, point.value) for point in by_fold] == list(enumerate(first["best"]["folds"]))
    for run in nested:
        assert run.info.status == {"complete": "FINISHED", "pruned": "KILLED"}[run.data.tags[STATE]]
    pictures = {file.path for file in client.list_artifacts(parent.info.run_id, "plots")}
    assert pictures == {"plots/history.png", "plots/setting_importance.png"}
    with open(client.download_artifacts(parent.info.run_id, "plots/history.png"), "rb") as picture:
        assert picture.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_finished_search_adds_nothing_and_a_longer_one_adds_what_is_new(folder: Path, first: dict[str, Any]) -> None:
    before = [run.info.run_id for run in runs(folder)[1]]
    again = json.loads(CliRunner().invoke(app, command(folder, "--trials", "8")).stdout)
    assert again["best"] == first["best"]
    _, nested, client = runs(folder)
    assert [run.info.run_id for run in nested] == before
    # A run that was cut short by a kill (it has no state yet) is made anew, the others are left as they are.
    client.delete_tag(nested[3].info.run_id, STATE)
    more = CliRunner().invoke(app, command(folder, "--trials", "9"))
    assert more.exit_code == 0, more.output
    _, longer, _ = runs(folder)
    kept = [run.info.run_id for run in longer]
    assert len(kept) == 9
    assert [new == old for new, old in zip(kept, before, strict=False)] == [n != 3 for n in range(8)]
    assert longer[3].data.params == nested[3].data.params


def test_a_table_for_people(folder: Path, first: dict[str, Any]) -> None:
    arguments = [word for word in command(folder, "--trials", "8") if word != "--json"]
    said = CliRunner().invoke(app, arguments).stdout
    assert "learning_rate" in said
    assert f"as it is {first['default']:.4f}" in said
    assert "optimistic" in said
    assert "cascade ltr --settings" in said


def test_a_validation_split_is_what_training_stops_on(folder: Path) -> None:
    done = CliRunner().invoke(
        app, [*command(folder, "--trials", "1", "--name", "with-valid"), "--valid", str(folder / "valid.txt")]
    )
    assert done.exit_code == 0, done.output
    both = CliRunner().invoke(app, [*command(folder, "--name", "both"), "--valid", str(folder / "train.txt")])
    assert isinstance(both.exception, InputError)
    assert "is in train and in valid" in str(both.exception)


def test_where_mlflow_cannot_be_written_the_search_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_letor(tmp_path / "train.txt")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mlflow.db").write_text("no database")
    done = CliRunner().invoke(app, command(tmp_path, "--trials", "2"))
    assert done.exit_code == 0, done.output
    assert sum(json.loads(done.stdout)["trials"].values()) == 2
    assert caplog.text.count("the search is not in MLflow") == 1
    (tmp_path / "home" / "mlflow.db").unlink()
    assert CliRunner().invoke(app, command(tmp_path, "--trials", "2")).exit_code == 0
    assert len(runs(tmp_path)[1]) == 2


def test_the_real_command_is_quiet_and_refuses_in_one_line(tmp_path: Path) -> None:
    write_letor(tmp_path / "train.txt")
    shell = [sys.executable, "-m", "pipeline.cli", *command(tmp_path, "--trials", "1")]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    json.loads(done.stdout)
    bad = subprocess.run([*shell, "--train", "missing.txt"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert len(bad.stderr.strip().splitlines()) == 1, bad.stderr
    assert bad.stderr.startswith("error: missing.txt")
    for more in (["--metric", "nonsense"], ["--ranker", "blend"], ["--blank", "two"], ["--folds", "1"]):
        refused = CliRunner().invoke(app, [*command(tmp_path), *more])
        assert isinstance(refused.exception, InputError), more


@pytest.mark.slow
def test_killed_for_real_it_goes_on_and_mlflow_has_every_trial_once(tmp_path: Path) -> None:
    write_letor(tmp_path / "train.txt")

    def shell(trials: int) -> list[str]:
        return [sys.executable, "-m", "pipeline.cli", *command(tmp_path, "--trials", str(trials))]

    # Far more trials than it will live to see, however late a busy machine lets this process look.
    process = subprocess.Popen(shell(400), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    database = tmp_path / "home" / "mlflow.db"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if database.exists() and _trials(tmp_path) >= 2:
            process.kill()
            break
        time.sleep(0.05)
    assert process.wait(60) == -signal.SIGKILL
    total = _trials(tmp_path) + 3
    done = subprocess.run(shell(total), cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(done.stdout)
    assert sum(found["trials"].values()) == total
    assert [int(run.data.tags[TRIAL]) for run in runs(tmp_path)[1]] == list(range(total))
    whole = tmp_path / "whole"
    whole.mkdir()
    write_letor(whole / "train.txt")
    straight = json.loads(CliRunner().invoke(app, command(whole, "--trials", str(total))).stdout)
    assert {**found["best"], "seconds": 0} == {**straight["best"], "seconds": 0}


def _trials(folder: Path) -> int:
    """Trials that have ended, as SQLite has them."""
    database = folder / "home" / "tuning" / "studies.db"
    query = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute(query).fetchone()[0])


def test_the_command_line_does_not_load_optuna() -> None:
    code = "import sys, pipeline.cli, pipeline.jobs; print('optuna' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
