"""A stored ranker comes back as it was, or is refused before LightGBM, which would abort the process, sees a byte."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from rankers.artifact import load_ranker
from retrieval.errors import IntegrityError
from tests.rankers.conftest import NAMES
from tests.rankers.synthetic import judged

MODEL_OF = {"lambdamart from bm25": "model.txt", "ranknet": "model.safetensors"}


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(rankers, name, tmp_path):
    ranker = rankers[name]
    ranker.save(tmp_path / "new" / "ranker")
    loaded = load_ranker(tmp_path / "new" / "ranker")
    frame = judged(10, seed=9)  # holds NaN; below, whole rows and null
    frame = frame.with_columns(bm25=pl.when(pl.col("docid").hash() % 3 == 0).then(None).otherwise("bm25"))
    np.testing.assert_allclose(loaded.score(frame), ranker.score(frame), rtol=0, atol=1e-6)
    np.testing.assert_allclose(loaded.explain(frame), ranker.explain(frame), rtol=0, atol=1e-6)
    for attribute in ("name", "family", "feature_names", "hyperparameters"):
        assert getattr(loaded, attribute) == getattr(ranker, attribute)
    loaded.save(tmp_path / "again")
    for path in (tmp_path / "new" / "ranker").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def zeroed(data: bytes) -> bytes:
    return bytes(len(data))


def emptied(data: bytes) -> bytes:
    return b""


def extended(data: bytes) -> bytes:
    return data + b"\n"


@pytest.mark.parametrize("damage", [truncated, flipped, zeroed, emptied, extended])
@pytest.mark.parametrize("name", MODEL_OF)
def test_a_damaged_model_is_refused_before_it_is_parsed(rankers, name, damage, tmp_path):
    rankers[name].save(tmp_path)
    path = tmp_path / MODEL_OF[name]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match=f"{path.name}: truncated or altered"):
        load_ranker(tmp_path)


@pytest.mark.parametrize("damage", [truncated, flipped, zeroed, emptied])
def test_a_damaged_description_is_refused(rankers, damage, tmp_path):
    rankers["ranknet"].save(tmp_path)
    path = tmp_path / "ranker.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match=r"ranker\.json"):
        load_ranker(tmp_path)


def test_features_swapped_in_the_description_are_noticed(rankers, tmp_path):
    rankers["lambdamart"].save(tmp_path)
    path = tmp_path / "ranker.json"
    fields = json.loads(path.read_text())
    fields["feature_names"].reverse()
    path.write_text(json.dumps(fields))
    with pytest.raises(IntegrityError, match=r"ranker\.json: altered since it was written"):
        load_ranker(tmp_path)


@pytest.mark.parametrize("gone", ["ranker.json", "model.txt"])
def test_a_missing_file_is_named(rankers, gone, tmp_path):
    rankers["regression"].save(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(IntegrityError, match=gone):
        load_ranker(tmp_path)


def imported_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=".")
    return set(run.stdout.split())


def test_only_the_library_that_a_ranker_needs_is_imported(rankers, tmp_path):
    rankers["lambdamart"].save(tmp_path / "trees")
    rankers["ranknet"].save(tmp_path / "network")
    load = "from pathlib import Path\nfrom rankers.artifact import load_ranker\nload_ranker(Path({!r}))"
    assert not imported_by("import rankers.protocol, rankers.artifact, rankers.slates") & {"torch", "lightgbm"}
    assert imported_by(load.format(str(tmp_path / "trees"))) & {"torch", "lightgbm"} == {"lightgbm"}
    assert imported_by(load.format(str(tmp_path / "network"))) & {"torch", "lightgbm"} == {"torch"}
