"""One step back, for the bundle that is served and for the registry's aliases alike."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.bundle import open_bundle, publish
from pipeline.results import Leaderboard, System
from pipeline.rollback import roll_back
from pipeline.tracking import Tracker
from retrieval.errors import InputError, IntegrityError

ROOT = Path(__file__).resolve().parents[2]


def system(name: str, valid: float) -> System:
    values = np.clip(np.random.default_rng(0).normal(valid, 0.02, 40), 0, 1)
    frame = pl.DataFrame({"qid": [f"q{number}" for number in range(40)], "ndcg_cut_10": values})
    return System(
        name=name,
        stage="retrieve",
        key=f"key of {name}",
        params={},
        per_query={"valid": frame, "test": frame},
        metrics={"ndcg_cut_10": valid},
        ci95=(valid, valid),
        ms_per_query=1,
        stage_ms={name: 1.0},
        ndcg_by_k={10: valid},
    )


def put_forward(home: Path, name: str, valid: float, *, data: str = "f", bundle: bool = True) -> str:
    """Track, promote and (as the main job does) publish a system; returns its bundle's name."""
    only = system(name, valid)
    board = Leaderboard(f"set {data}", data * 64, "test", "zero", 40, [only], name, name, {})
    tracker = Tracker(home)
    promotion = tracker.promote(board, tracker.log(board))
    if not bundle:
        return promotion.model
    file = home.parent / f"{name}.txt"
    file.write_text(name)
    manifest = {"dataset_fingerprint": data * 64, "system": name, "system_key": f"key of {name}"}
    folder = publish(home, name=f"set {data}", files={"model.txt": file}, manifest=manifest)
    tracker.set_bundle(promotion, folder.name)
    return folder.name


def state(home: Path) -> dict[str, str | None]:
    """What is served, and who is champion and previous of each data set."""
    found = {link: (home / link).resolve().name if (home / link).exists() else None for link in ("current", "previous")}
    tracker = Tracker(home)
    for parent in tracker.data_sets():
        for alias, version in tracker.aliases(parent).items():
            found[f"{parent.data.tags['cascade.dataset']} {alias}"] = version.tags["cascade.system"]
    return found


def test_the_champion_follows_the_bundle_and_twice_is_as_if_never(mlflow_home):
    first = put_forward(mlflow_home, "bm25", 0.4)
    second = put_forward(mlflow_home, "fused", 0.6)
    before = state(mlflow_home)
    assert before == {
        "current": second, "previous": first, "set f champion": "fused", "set f previous": "bm25",
    }  # fmt: skip
    done = roll_back(mlflow_home)
    assert (done.bundle, done.registry.champion, done.registry.before) == (first, "bm25", "fused")
    assert state(mlflow_home) == {
        "current": first, "previous": second, "set f champion": "bm25", "set f previous": "fused",
    }  # fmt: skip
    assert open_bundle(mlflow_home).metadata["system"] == "bm25"
    roll_back(mlflow_home)
    assert state(mlflow_home) == before


def test_a_challenger_is_left_alone_by_both_steps(mlflow_home):
    put_forward(mlflow_home, "bm25", 0.4)
    put_forward(mlflow_home, "fused", 0.6)
    # Put forward again, bm25 is challenger and previous at once.
    put_forward(mlflow_home, "bm25", 0.4, bundle=False)
    before = state(mlflow_home)
    assert before["set f challenger"] == "bm25"
    roll_back(mlflow_home)
    roll_back(mlflow_home)
    assert state(mlflow_home) == before


def test_a_bundle_of_another_data_set_leaves_both_champions(mlflow_home):
    first = put_forward(mlflow_home, "bm25", 0.4, data="a")
    put_forward(mlflow_home, "fused", 0.6, data="b")
    done = roll_back(mlflow_home)
    assert (done.bundle, done.registry) == (first, None)
    assert (state(mlflow_home)["set a champion"], state(mlflow_home)["set b champion"]) == ("bm25", "fused")


def test_a_home_without_mlflow_rolls_its_bundles_back(tmp_path):
    home = tmp_path / "home"
    names = []
    for version in ("one", "two"):
        (tmp_path / version).write_text(version)
        names.append(publish(home, name="x", files={"f": tmp_path / version}, manifest={"v": version}).name)
    assert roll_back(home).bundle == names[0]
    assert not (home / "mlflow.db").exists()
    with pytest.raises(InputError, match="holds no model registry yet"):
        roll_back(home, "x")


def test_without_a_previous_one_there_is_a_clear_error_and_no_change(mlflow_home):
    put_forward(mlflow_home, "bm25", 0.4)
    before = state(mlflow_home)
    with pytest.raises(InputError, match="no previous search bundle"):
        roll_back(mlflow_home)
    with pytest.raises(InputError, match="cascade-set-f-ffffffffffff: has no previous champion to go back to"):
        roll_back(mlflow_home, "set f")
    assert state(mlflow_home) == before


def test_a_damaged_bundle_moves_neither(mlflow_home):
    first = put_forward(mlflow_home, "bm25", 0.4)
    put_forward(mlflow_home, "fused", 0.6)
    (mlflow_home / "bundles" / first / "model.txt").write_text("altered")
    before = state(mlflow_home)
    for model in (None, "set f"):
        with pytest.raises(IntegrityError, match=r"model\.txt"):
            roll_back(mlflow_home, model)
    assert state(mlflow_home) == before


def test_a_data_set_without_bundles_rolls_back_by_its_name_or_its_models(mlflow_home):
    put_forward(mlflow_home, "ranknet", 0.4, bundle=False)
    model = put_forward(mlflow_home, "lambdamart", 0.6, bundle=False)
    before = state(mlflow_home)
    done = roll_back(mlflow_home, "set f")
    assert done.bundle is None
    assert list(done.lines()) == [f"champion of {model} is now ranknet (version 1), before lambdamart (version 2)"]
    assert state(mlflow_home)["set f previous"] == "lambdamart"
    roll_back(mlflow_home, model)
    assert state(mlflow_home) == before


def test_by_model_the_served_bundle_goes_along(mlflow_home):
    first = put_forward(mlflow_home, "bm25", 0.4)
    second = put_forward(mlflow_home, "fused", 0.6)
    before = state(mlflow_home)
    assert roll_back(mlflow_home, "set f").bundle == first
    assert state(mlflow_home)["current"] == first
    assert roll_back(mlflow_home, "set f").bundle == second
    assert state(mlflow_home) == before


def test_a_served_champion_is_not_left_for_one_that_was_never_published(mlflow_home):
    put_forward(mlflow_home, "bm25", 0.4, bundle=False)
    put_forward(mlflow_home, "fused", 0.6)
    before = state(mlflow_home)
    with pytest.raises(InputError, match=r"bm25 \(version 1\) was never published"):
        roll_back(mlflow_home, "set f")
    assert state(mlflow_home) == before


def test_an_unknown_or_ambiguous_name_lists_the_models(mlflow_home):
    for data, valid in (("a", 0.4), ("b", 0.6)):
        put_forward(mlflow_home, "bm25", valid, data=data, bundle=False)
    with pytest.raises(
        InputError, match=r"nothing: no such registered model; name one of: cascade-set-a-.*, cascade-set-b"
    ):
        roll_back(mlflow_home, "nothing")


def test_a_registry_that_is_damaged_costs_a_warning(mlflow_home, caplog):
    first = put_forward(mlflow_home, "bm25", 0.4)
    put_forward(mlflow_home, "fused", 0.6)
    (mlflow_home / "mlflow.db").write_bytes(b"no database" * 100)
    assert roll_back(mlflow_home).bundle == first
    assert "champion did not follow" in caplog.text


@pytest.mark.slow
def test_the_command_says_what_it_did(mlflow_home):
    first = put_forward(mlflow_home, "bm25", 0.4)
    put_forward(mlflow_home, "fused", 0.6)

    def cascade(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.cli", *arguments, "--home", str(mlflow_home)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    done = cascade("rollback")
    assert done.stdout.splitlines() == [
        f"current is now {first}",
        "champion of cascade-set-f-ffffffffffff is now bm25 (version 1), before fused (version 2)",
    ]
    refused = cascade("rollback", "--model", "other")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no such registered model" in refused.stderr
