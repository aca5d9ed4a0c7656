"""A system as an MLflow model that stands alone: source text, the ranker's folder and the rooms that it imports."""

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema

import rankers
import retrieval
from pipeline.results import System
from rankers import artifact
from rankers.catalogue import Kind
from retrieval.frames import PAIRS

SOURCE = Path(__file__).with_name("mlflow_ranker.py")
_LIBRARIES: Mapping[Kind, Sequence[str]] = {
    "trees": ("lightgbm",),
    "network": ("torch", "safetensors"),
    "blend": ("lightgbm", "safetensors", "scipy", "torch"),
}


def save_model(system: System, logged: LoggedModel, run_id: str, folder: Path) -> None:
    """Write the pyfunc model of `system` to `folder`, for `logged` in the run `run_id`.

    A ranker's input is FEATURES with doubles for its features, so that float32, float64 and JSON numbers all pass; any
    other system's is the column `<name>_stage_score`. The output is a score a row.

    Raises IntegrityError for a ranker whose files were altered.
    """
    ranker = artifact.read(system.ranker) if system.ranker else None
    column = f"{system.name}_stage_score"
    keys, numbers = (list(PAIRS), ranker.feature_names) if ranker else ([], (column,))
    inputs = Schema([*(ColSpec("string", key) for key in keys), *(ColSpec("double", name) for name in numbers)])
    needs = ("mlflow", "numpy", "pandas", "polars", *(_LIBRARIES[ranker.kind] if ranker else ()))
    with warnings.catch_warnings():
        # An example of the input would be a made-up row.
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(SOURCE),
            artifacts={"ranker": str(system.ranker)} if ranker else None,
            model_config=None if ranker else {"column": column},
            code_paths=[room.__path__[0] for room in (rankers, retrieval)],
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in needs],
            signature=ModelSignature(inputs, Schema([ColSpec("float", "score")])),
            mlflow_model=Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id),
        )
