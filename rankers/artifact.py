"""How a ranker is stored: one folder, read only once its bytes are known to be those that were written.

    ranker.json                       name, family, feature order, normaliser or start, hyperparameters, checksums
    model.txt | model.safetensors     the trees as LightGBM's text, or the weights of a network
    blend.json, members/N/            or a blend: its weights, and each member's own such folder, named by its checksum

LightGBM aborts the whole process on a truncated model and loads an altered one without a word, so the SHA-256 is
compared before a native parser sees a byte, and the parser is given the bytes that were compared, not the file again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rankers.catalogue import Kind
from rankers.protocol import Family, Ranker
from retrieval.errors import IntegrityError

FORMAT = 1
DESCRIPTION = "ranker.json"

Setting: TypeAlias = bool | int | float | str | list[int] | list[float] | list[str] | None

MODEL_FILES: Mapping[Kind, str] = {"trees": "model.txt", "network": "model.safetensors", "blend": "blend.json"}


@dataclass(frozen=True)
class Artifact:
    """A stored ranker; `normaliser` and `start` are what a Normaliser and a HeadStart wrote of themselves, if any."""

    name: str
    family: Family
    kind: Kind
    feature_names: tuple[str, ...]
    hyperparameters: Mapping[str, Setting]
    model: bytes
    normaliser: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, float] = field(default_factory=dict)


def load_ranker(folder: Path) -> Ranker:
    """Load the ranker stored in `folder`, importing the library that it needs and no other.

    Raises IntegrityError naming the file that is missing, truncated or altered.
    """
    artifact = read(folder)
    match artifact.kind:
        case "trees":
            from rankers.trees import TreeRanker

            return TreeRanker.of(artifact)
        case "network":
            from rankers.neural import NetworkRanker

            return NetworkRanker.of(artifact)
        case "blend":
            from rankers.blend import BlendRanker

            return BlendRanker.of(artifact, folder)


def write(artifact: Artifact, folder: Path) -> None:
    """Store `artifact` in `folder`, made where missing; the description goes last, so a broken write is noticed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILES[artifact.kind]).write_bytes(artifact.model)
    fields = {**asdict(artifact), "model": _sha256(artifact.model), "format": FORMAT}
    fields["checksum"] = _sha256(_canonical(fields))
    (folder / DESCRIPTION).write_text(json.dumps(fields, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(folder: Path) -> Artifact:
    """Read and verify `folder`; see load_ranker."""
    description = folder / DESCRIPTION
    try:
        fields = json.loads(_bytes(description))
        checksum = fields.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{description}: not the description of a ranker; publish the ranker again") from error
    if checksum != _sha256(_canonical(fields)):
        raise IntegrityError(f"{description}: altered since it was written; publish the ranker again")
    if (found := fields.pop("format")) != FORMAT:
        raise IntegrityError(f"{description}: format {found}, this version reads format {FORMAT}")
    path = folder / MODEL_FILES[fields["kind"]]
    model = _bytes(path)
    if (expected := fields.pop("model")) != _sha256(model):
        raise IntegrityError(f"{path}: truncated or altered, its SHA-256 is not {expected}; publish the ranker again")
    return Artifact(**{**fields, "feature_names": tuple(fields["feature_names"])}, model=model)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}); publish the ranker again") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, allow_nan=False).encode()
