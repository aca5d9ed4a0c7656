"""How a click model is stored: one folder, read only once its bytes are known to be those that were written.

model.json            name, shared parameters, checksums
parameters.parquet    one row a (query, document): its parameters and impressions
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from rankers.clicks.cascade import Cascade
from rankers.clicks.dbn import DynamicBayesian
from rankers.clicks.pbm import PositionBased
from rankers.clicks.protocol import ClickModel
from retrieval.errors import InputError, IntegrityError

FORMAT = 1
DESCRIPTION = "model.json"
PARAMETERS = "parameters.parquet"
MODELS = ("pbm", "cascade", "dbn")


def save_model(model: ClickModel, folder: Path) -> None:
    """Write `model` into `folder`, made where missing; the description goes last, so a broken write is noticed.

    Raises InputError where the folder cannot be written.
    """
    packed = io.BytesIO()
    model.parameters.write_parquet(packed)
    fields = {"format": FORMAT, "name": model.name, "shared": model.shared, "parameters": _sha256(packed.getvalue())}
    fields["checksum"] = _sha256(_canonical(fields))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PARAMETERS).write_bytes(packed.getvalue())
        (folder / DESCRIPTION).write_text(json.dumps(fields, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error


def load_model(folder: Path) -> ClickModel:
    """Load the model stored in `folder`. Raises IntegrityError naming a file that is missing, truncated or altered."""
    description, parameters = folder / DESCRIPTION, folder / PARAMETERS
    try:
        fields = json.loads(_bytes(description))
        checksum = fields.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{description}: not the description of a click model; fit the model again") from error
    if checksum != _sha256(_canonical(fields)):
        raise IntegrityError(f"{description}: altered since it was written; fit the model again")
    if fields["format"] != FORMAT:
        raise IntegrityError(f"{description}: format {fields['format']}, this version reads format {FORMAT}")
    packed = _bytes(parameters)
    if fields["parameters"] != _sha256(packed):
        raise IntegrityError(f"{parameters}: truncated or altered, its SHA-256 is not the stored one; "
                             "fit the model again")  # fmt: skip
    frame, shared = pl.read_parquet(io.BytesIO(packed)), fields["shared"]
    match fields["name"]:
        case "pbm":
            return PositionBased(frame, dict(zip(shared["positions"], shared["examination"], strict=True)))
        case "cascade":
            return Cascade(frame)
        case "dbn":
            return DynamicBayesian(frame, shared["continuation"])
        case other:
            raise IntegrityError(f"{description}: unknown click model {other!r}; known: {', '.join(MODELS)}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}); fit the model again") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, allow_nan=False).encode()
