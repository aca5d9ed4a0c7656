"""The house's own rules: what may import what, and what must stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "faiss", "mlflow", "lightgbm", "sentence_transformers", "matplotlib", "optuna"}


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.jobs",
        "pipeline.cli",
        "pipeline.build",
        "pipeline.searcher",
        "features.assemble",
        "rankers.artifact",
        "rankers.catalogue",
    ],
)
def test_importing_a_face_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_without_faiss_the_error_names_the_command() -> None:
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from pipeline import build\n"
        "from retrieval.errors import MissingExtra\n"
        "try: build.dense_index()\n"
        "except MissingExtra as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'pip install -c requirements.lock ".[cpu]"' in said.stdout


def test_the_package_faces_are_empty() -> None:
    for room in ("retrieval", "features", "rankers", "llm", "pipeline"):
        assert (ROOT / room / "__init__.py").read_text() == ""


def test_the_lock_pins_every_requirement_and_no_cuda_package() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text().split()}
    assert {
        "torch",
        "polars",
        "lightgbm",
        "faiss-cpu",
        "mlflow",
        "sentence-transformers",
        "bm25s",
        "apache-airflow",
    } <= pinned
    assert not {name for name in pinned if name.startswith(("nvidia", "cuda")) or name == "triton"}
