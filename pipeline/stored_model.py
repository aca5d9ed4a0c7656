"""Models of an MLflow registry, opened for scoring: verified before anything parses them, and never unpickled.

A model that Cascade logged has a list of its files, whose checksum MLflow's database keeps (`pipeline.mlflow_model`);
only listed files are read, and only once their SHA-256 is right. Other people's models carry no checksum: of them those
are taken whose files are data or source text, and a native library that would abort on a damaged one does so in a
process of its own.
"""

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipeline.durable import defects, records_from_json
from pipeline.mlflow_model import FILES, FILES_TAG
from rankers.protocol import Floats
from retrieval.errors import InputError, IntegrityError
from retrieval.frames import PAIRS

log = logging.getLogger(__name__)

SCHEMES = ("models:/", "runs:/")
SOURCE_LOADER = "mlflow.pyfunc.loaders.code_model"
LOADS_WITHOUT_PICKLE: Mapping[str, tuple[str, str]] = {
    "mlflow.lightgbm": ("lightgbm", "lightgbm.basic.Booster"),
    "mlflow.xgboost": ("xgboost", "xgboost."),
    "mlflow.catboost": ("catboost", "catboost."),
}
"""Loader → its flavour, and how the class must begin that it stores as plain data (LightGBM's text, XGBoost's JSON)."""

_TRIAL_SECONDS = 300


@dataclass(frozen=True)
class Place:
    """Where a model lies. checksum: of the list of its files, None for a model that Cascade did not log."""

    uri: str
    location: str
    name: str
    model_id: str | None
    checksum: str | None
    key: str | None


@dataclass(frozen=True)
class StoredModel:
    """A model loaded back. feature_names: the columns that it reads, in its order; ranker: its artifact's folder, if it
    is Cascade's own."""

    place: Place
    feature_names: tuple[str, ...]
    ranker: Path | None
    model: Any

    def score(self, features: pl.DataFrame) -> Floats:
        """Score each row of FEATURES, float32 [n], columns taken by name. Raises InputError naming those missing."""
        columns = [column.name for column in self.model.metadata.signature.inputs.inputs]
        if missing := [column for column in columns if column not in features.columns]:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise InputError(f"{self.place.uri}: the features lack {', '.join(missing[:5])}{more}, which it reads")
        if words := [name for name in columns if name not in PAIRS and not features.schema[name].is_numeric()]:
            raise InputError(
                f"{self.place.uri}: reads {words[0]} as a number, which is {features.schema[words[0]]} here"
            )
        numbers = [pl.col(name).cast(pl.Float64) for name in columns if name not in PAIRS]
        frame = features.select(*(name for name in columns if name in PAIRS), *numbers).to_pandas()[columns]
        try:
            scores = np.asarray(self.model.predict(frame), dtype=np.float32)
        except (MlflowException, ValueError, TypeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"{self.place.uri}: cannot score these features: {reason}") from error
        if scores.size != features.height:
            raise InputError(
                f"{self.place.uri}: gives {scores.size} numbers for {features.height} rows; one a row is right"
            )
        return scores.reshape(-1)


def find(client: MlflowClient, uri: str) -> Place:
    """Where the model of a `models:/…` or `runs:/…` URI lies, in the store of `client`.

    Raises InputError for a URI of another form and for a model that is not there.
    """
    try:
        match uri.partition(":/")[0], uri.partition(":/")[2].strip("/").split("/"):
            case "models", [model] if re.fullmatch(r"m-[0-9a-f]{32}", model):
                return _logged(client, uri, model)
            case "models", [alias] if "@" in alias:
                return _version(client, uri, client.get_model_version_by_alias(*alias.rsplit("@", 1)))
            case "models", [name, number] if number.isdecimal():
                return _version(client, uri, client.get_model_version(name, number))
            case "runs", [run_id, *path] if path:
                return _of_run(client, uri, run_id, "/".join(path))
    except MlflowException as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(f"{uri}: there is no such model here ({reason})") from error
    raise InputError(f"{uri}: must be models:/NAME/VERSION, models:/NAME@ALIAS, models:/MODEL_ID or runs:/RUN/NAME")


def _version(client: MlflowClient, uri: str, version: Any) -> Place:
    # MLflow's SQL store keeps no model id with a version, only where its files are.
    if model := re.search(r"\bm-[0-9a-f]{32}\b", version.source):
        return _logged(client, uri, model[0])
    return Place(uri, version.source, version.name, None, None, version.tags.get("cascade.key"))


def _logged(client: MlflowClient, uri: str, model_id: str) -> Place:
    model = client.get_logged_model(model_id)
    tags = model.tags
    return Place(uri, model.artifact_location, model.name, model_id, tags.get(FILES_TAG), tags.get("cascade.key"))


def _of_run(client: MlflowClient, uri: str, run_id: str, path: str) -> Place:
    run = client.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    for output in outputs:
        if client.get_logged_model(output.model_id).name == path:
            return _logged(client, uri, output.model_id)
    return Place(uri, f"{run.info.artifact_uri}/{path}", path, None, None, None)


def load(place: Place, folder: Path) -> StoredModel:
    """Copy the model to `folder` (new, and kept for as long as the model is used), verify the copy, and load it.

    Raises IntegrityError naming the file that was altered, truncated or is missing; InputError for a model that would
    have to be unpickled, and for one that does not name its columns.
    """
    copy = Path(_fetched(place, folder))
    if place.checksum is not None:
        _verify(copy, place)
    try:
        meta = Model.load(str(copy))
    except (MlflowException, OSError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{place.uri}: its MLmodel file cannot be read; log the model again") from error
    loader = _refuse_pickles(meta, place)
    inputs = meta.signature.inputs if meta.signature else None
    if inputs is None or not inputs.has_input_names():
        raise InputError(f"{place.uri}: has no signature with names, so its columns cannot be checked; log it with one")
    if place.checksum is None:
        log.warning("%s: carries no checksum (Cascade did not log it); it is used as it lies there", place.uri)
        if loader in LOADS_WITHOUT_PICKLE:
            _try_apart(copy, place)
    ranker = copy / "artifacts" / "ranker"
    with _import_path_kept():
        model = mlflow.pyfunc.load_model(str(copy), suppress_warnings=True)
    names = tuple(name for name in inputs.input_names() if name not in PAIRS)
    return StoredModel(place, names, ranker if place.checksum and ranker.is_dir() else None, model)


def _fetched(place: Place, folder: Path) -> str:
    folder.mkdir(parents=True)
    try:
        return str(mlflow.artifacts.download_artifacts(artifact_uri=place.location, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        raise IntegrityError(f"{place.uri}: its files are not at {place.location}; log the model again") from error


def _verify(copy: Path, place: Place) -> None:
    """Refuse any file that is not as it was logged, and drop what a Python has compiled beside the source since."""
    for compiled in list(copy.rglob("__pycache__")):
        shutil.rmtree(compiled)
    listed = (copy / FILES).read_bytes() if (copy / FILES).is_file() else b""
    if hashlib.sha256(listed).hexdigest() != place.checksum:
        raise IntegrityError(f"{place.uri}: its list of files ({FILES}) is missing or was altered; log the model again")
    records = records_from_json(json.loads(listed), f"{place.uri}: {FILES}")
    if wrong := next(defects(copy, records, index=FILES), None):
        raise IntegrityError(f"{place.uri}: {wrong}; log the model again")


def _refuse_pickles(meta: Model, place: Place) -> str:
    """The name of the loader, once it is known to unpickle nothing."""
    flavours = meta.flavors
    if "python_function" not in flavours:
        raise InputError(f"{place.uri}: has no python_function flavour, so it cannot be scored here")
    loader = str(flavours["python_function"].get("loader_module"))
    if loader == SOURCE_LOADER and "model_code_path" in flavours["python_function"]:
        return loader
    if loader == "mlflow.pyfunc.model":
        raise InputError(
            f"{place.uri}: is stored as a pickle (cloudpickle), and nothing is unpickled here; log it as source: "
            f"mlflow.pyfunc.log_model(python_model='model.py', …)"
        )
    flavour, begins = LOADS_WITHOUT_PICKLE.get(loader, ("", ""))
    if flavour in flavours and str(flavours[flavour].get("model_class", begins)).startswith(begins):
        return loader
    raise InputError(
        f"{place.uri}: the flavour {loader} would have to be unpickled, and nothing is unpickled here; log a booster "
        f"(mlflow.lightgbm.log_model(model.booster_, …)) or source text"
    )


def _try_apart(copy: Path, place: Place) -> None:
    """Load the model in a process of its own first: native parsers abort theirs on a damaged file."""
    code = "import sys, mlflow; mlflow.pyfunc.load_model(sys.argv[1], suppress_warnings=True)"
    tried = subprocess.run(
        [sys.executable, "-c", code, str(copy)], capture_output=True, timeout=_TRIAL_SECONDS, check=False
    )
    if tried.returncode:
        raise IntegrityError(f"{place.uri}: its library cannot load it: the file is damaged; log the model again")


@contextmanager
def _import_path_kept() -> Iterator[None]:
    """MLflow puts the model's copy of the source first on the import path, for good."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before
