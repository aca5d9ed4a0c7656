import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import mlflow
import polars as pl
import pytest
from rich.console import Console

from pipeline.compare import compare, ui_command
from pipeline.results import Leaderboard, System, Versus
from pipeline.tracking import Tracker
from retrieval.errors import CascadeError, InputError


def system(name: str, mean: float, key: str | None = None) -> System:
    frame = pl.DataFrame({"qid": [f"q{number}" for number in range(30)], "ndcg_cut_10": [mean] * 30})
    return System(
        name=name,
        stage="retrieve",
        key=key or name,
        params={},
        per_query={"valid": frame, "test": frame},
        metrics={"ndcg_cut_10": mean},
        ci95=(mean - 0.05, mean + 0.05),
        ms_per_query=1.25,
        stage_ms={name: 1.25},
        ndcg_by_k={10: mean},
    )


def board(*systems: System, selected: str, dataset: str = "scifact", fingerprint: str = "f" * 64) -> Leaderboard:
    versus = {other.name: Versus(0.0625, (0.03125, 0.125), 0.004) for other in systems[1:]}
    return Leaderboard(dataset, fingerprint, "test", "zero", 30, systems, systems[0].name, selected, versus)


def track(tracker: Tracker, leaderboard: Leaderboard) -> dict[str, str]:
    run_ids = tracker.log(leaderboard)
    tracker.promote(leaderboard, run_ids)
    return run_ids


BM25, FUSED = system("bm25", 0.5), system("fused", 0.7)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two data sets; on the first, a champion (fused) and a challenger (dense) with settings that came later."""
    home = tmp_path_factory.mktemp("home")
    tracker = Tracker(home)
    track(tracker, board(BM25, system("dense", 0.4), FUSED, selected="fused"))
    track(tracker, board(BM25, system("dense", 0.6, key="another encoder"), FUSED, selected="dense"))
    track(tracker, board(system("bm25", 0.3), selected="bm25", dataset="nq", fingerprint="e" * 64))
    return home


def drawn(home: Path, dataset: str) -> str:
    console = Console(width=140, file=StringIO())
    for comparison in compare(home, dataset):
        console.print(comparison.table())
    return console.file.getvalue()


def test_the_latest_run_of_each_system_is_compared(home):
    [scifact] = compare(home, "scifact")
    assert (scifact.dataset, scifact.split, scifact.blank, scifact.queries) == ("scifact", "test", "zero", 30)
    assert [(row.name, row.ndcg_cut_10, row.alias) for row in scifact.rows] == [
        ("fused", 0.7, "champion"),
        ("dense", 0.6, "challenger"),
        ("bm25", 0.5, None),
    ]
    assert scifact.champion == "fused (version 1)"
    fused, _, bm25 = scifact.rows
    assert (fused.difference, fused.difference_ci95, fused.p_value) == (0.0625, (0.03125, 0.125), 0.004)
    assert (fused.ci95, fused.ms_per_query, fused.baseline) == (FUSED.ci95, 1.25, "bm25")
    assert (bm25.difference, bm25.difference_ci95, bm25.p_value, bm25.version) == (None, None, None, None)


def test_every_data_set_is_compared_the_newest_first(home):
    assert [(comparison.dataset, len(comparison.rows)) for comparison in compare(home)] == [("nq", 1), ("scifact", 3)]


def test_the_table_names_what_was_judged(home):
    shown = drawn(home, "scifact")
    assert "scifact, test: 30 queries, blank queries: zero" in shown
    [line] = [line for line in shown.splitlines() if "champion 1" in line]
    for cell in ("fused", "0.7000", "0.650 0.750", "+0.0625", "0.004", "1.25"):
        assert cell in line
    [baseline] = [line for line in shown.splitlines() if line.strip().startswith("bm25")]
    assert "baseline" in baseline
    assert "difference to bm25" in shown


def test_json_holds_every_figure(home):
    [scifact] = compare(home, "scifact")
    loaded = json.loads(json.dumps(scifact.as_json(), allow_nan=False))
    assert loaded["champion"] == "fused (version 1)"
    assert [row["name"] for row in loaded["rows"]] == ["fused", "dense", "bm25"]
    assert loaded["rows"][0]["ci95"] == list(FUSED.ci95)


def test_settings_that_come_back_are_compared_again(tmp_path):
    tracker = Tracker(tmp_path)
    first = track(tracker, board(BM25, selected="bm25"))
    track(tracker, board(system("bm25", 0.2, key="other settings"), selected="bm25"))
    # The champion's settings are still there beside the latest ones of the same name.
    assert [(row.ndcg_cut_10, row.alias) for row in compare(tmp_path)[0].rows] == [
        (0.5, "champion"),
        (0.2, "challenger"),
    ]
    assert track(tracker, board(BM25, selected="bm25")) == first
    assert compare(tmp_path)[0].rows[0].run_id == first["bm25"]


def test_a_baseline_that_was_none_before_loses_its_difference(tmp_path):
    tracker = Tracker(tmp_path)
    leaderboard = board(BM25, FUSED, selected="fused")
    track(tracker, leaderboard)
    versus = {"bm25": Versus(-0.2, (-0.3, -0.1), 0.01)}
    track(tracker, replace(leaderboard, baseline="fused", versus=versus))
    fused, bm25 = compare(tmp_path)[0].rows
    assert (fused.difference, bm25.difference, bm25.baseline) == (None, -0.2, "fused")


def test_only_figures_under_one_blank_policy_stand_side_by_side(tmp_path):
    tracker = Tracker(tmp_path)
    track(tracker, board(BM25, FUSED, selected="fused"))
    tracker.log(replace(board(system("bm25", 0.8), selected="bm25"), blank="one"))
    [comparison] = compare(tmp_path)
    assert comparison.blank == "one"
    assert [(row.name, row.ndcg_cut_10) for row in comparison.rows] == [("bm25", 0.8)]
    assert comparison.champion == "fused (version 1)"


def test_a_home_without_runs_names_the_command_and_stays_empty(tmp_path):
    with pytest.raises(InputError, match="cascade run"):
        compare(tmp_path)
    assert list(tmp_path.iterdir()) == []
    Tracker(tmp_path)
    with pytest.raises(InputError, match="cascade run"):
        compare(tmp_path)


def test_an_unknown_data_set_names_the_known_ones(home):
    with pytest.raises(InputError, match="'trec'; it holds nq, scifact"):
        compare(home, "trec")


def test_a_damaged_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(CascadeError, match=r"mlflow\.db"):
        compare(tmp_path)


def test_the_ui_command_is_one_that_mlflow_takes(home):
    """Its options are checked by MLflow itself, and its URI by reading from it."""
    program, page, option, uri = shlex.split(ui_command(home))
    assert (program, page) == ("mlflow", "ui")
    shown = subprocess.run(
        [sys.executable, "-m", "mlflow", page, option, uri, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert option in shown.stdout
    names = {experiment.name for experiment in mlflow.MlflowClient(tracking_uri=uri).search_experiments()}
    assert {"scifact", "nq"} <= names
