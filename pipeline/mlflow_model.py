"""A system as an MLflow model that stands alone: source text, the ranker's folder and the rooms that it imports.

Beside them lies `cascade_files.json`, the size and SHA-256 of every other file; MLflow's database keeps the checksum of
that list as a tag of the model, so that a file that was altered is found out before anything reads it.
"""

import hashlib
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
from pipeline.durable import FileRecord, digest, records_to_json, regular_files, rendered
from rankers import artifact
from rankers.catalogue import Kind
from retrieval.frames import PAIRS

FILES = "cascade_files.json"
FILES_TAG = "cascade.files"
SOURCE = Path(__file__).with_name("mlflow_ranker.py")
_LIBRARIES: Mapping[Kind, Sequence[str]] = {
    "trees": ("lightgbm",),
    "network": ("torch", "safetensors"),
    "blend": ("lightgbm", "safetensors", "scipy", "torch"),
}


def save_model(name: str, stored: Path | None, logged: LoggedModel, run_id: str, folder: Path) -> str:
    """Write the pyfunc model of the system `name` to `folder`, for `logged` in the run `run_id`.

    `stored` is the folder of the system's ranker, if it learned. A ranker's input is FEATURES with doubles for its
    features, so that float32, float64 and JSON numbers all pass; any other system's is the column
    `<name>_stage_score`. The output is a score a row.

    Returns the SHA-256 of the list of the model's files. Raises IntegrityError for a ranker whose files were altered.
    """
    ranker = artifact.read(stored) if stored else None
    column = f"{name}_stage_score"
    keys, numbers = (list(PAIRS), ranker.feature_names) if ranker else ([], (column,))
    inputs = Schema([*(ColSpec("string", key) for key in keys), *(ColSpec("double", number) for number in numbers)])
    needs = ("mlflow", "numpy", "pandas", "polars", *(_LIBRARIES[ranker.kind] if ranker else ()))
    with warnings.catch_warnings():
        # An example of the input would be a made-up row.
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(SOURCE),
            artifacts={"ranker": str(stored)} if ranker else None,
            model_config=None if ranker else {"column": column},
            code_paths=[room.__path__[0] for room in (rankers, retrieval)],
            pip_requirements=[f"{need}=={version(need).partition('+')[0]}" for need in needs],
            signature=ModelSignature(inputs, Schema([ColSpec("float", "score")])),
            mlflow_model=Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id),
        )
    records = {file: FileRecord(state.st_size, digest(folder / file)) for file, state in regular_files(folder).items()}
    listed = rendered(records_to_json(records))
    (folder / FILES).write_bytes(listed)
    return hashlib.sha256(listed).hexdigest()
