"""The stage cache: each stage's output, keyed by the content of everything that went into it.

    home/stages/<stage>-<key16>/    the files that the stage wrote, and stage.json: what it was made from, the size and
                                    SHA-256 of each file, the seconds it took
    home/stages/.tmp-…, .locks/     work in progress, and one lock a key

A folder with a stage's name is whole: it is written aside, hashed, forced to the disk, then renamed.
"""

import hashlib
import importlib.util
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.durable import (
    JSON,
    defects,
    fingerprint,
    locked,
    make_folder,
    records_from_json,
    records_to_json,
    regular_files,
    remove,
    rendered,
    seal,
    sync,
    sync_folders,
    write_json,
    writing,
)
from retrieval.errors import InputError, IntegrityError

log = logging.getLogger(__name__)

FORMAT = 1
RECORD = "stage.json"
_TEMP = ".tmp-"
_STAGE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class StageOutput:
    """A stage's folder of files, its key, whether it was found and not made, and the seconds that making it took."""

    path: Path
    key: str
    cached: bool
    seconds: float

    def files(self, under: str) -> dict[str, Path]:
        """`under`/name → path of every file that the stage wrote; the cache's own record is none of them."""
        return {f"{under}/{name}": self.path / name for name in regular_files(self.path) if name != RECORD}


class Stages:
    """The stages kept under `home`, safe to use from several threads and processes at once."""

    def __init__(self, *, home: Path) -> None:
        self._folder = home / "stages"

    def run(
        self,
        stage: str,
        *,
        inputs: Mapping[str, str],
        settings: Mapping[str, JSON],
        code: Sequence[str],
        make: Callable[[Path], None],
    ) -> StageOutput:
        """Return the output of `stage`, from the cache when the same was made before, else by calling `make(folder)`.

        stage:    a short name, lower case (`encode`)
        inputs:   the fingerprint of each thing the stage reads: data sets, the keys of earlier stages
        settings: what the stage was told, and the versions of the libraries whose results it keeps
        code:     module files whose source is part of the key (`retrieval/encoder.py`); they are not imported
        make:     writes the stage's files into the empty folder it is given

        A second process that wants the same output waits for the first and takes it from there. An output with a
        missing, altered or added file is made again, with a warning that names the file.

        Raises InputError for a name, setting or module file that cannot be keyed, CascadeError when the disk is full;
        what `make` raises passes through. In each case nothing half-written stays.
        """
        if not _STAGE_NAME.fullmatch(stage):
            raise InputError(f"stage {stage!r}: a name is lower-case letters, digits, _ and -")
        identity: dict[str, JSON] = {
            "format": FORMAT,
            "stage": stage,
            "inputs": dict(inputs),
            "settings": dict(settings),
            "code": {file: _source_digest(file) for file in code},
        }
        key = fingerprint(identity, f"stage {stage}")
        folder = self._folder / f"{stage}-{key[:16]}"
        with self._alone(folder) as aside, writing(f"stage {stage}", self._folder):
            seconds = _seconds_if_whole(folder, key)
            if seconds is not None:
                log.info("stage %s: from the cache (%.1f s when it was made)", stage, seconds)
                return StageOutput(path=folder, key=key, cached=True, seconds=seconds)
            if os.path.lexists(folder):
                os.rename(folder, aside)
            self._sweep()
            seconds = _make_aside(aside, identity, key, make)
            os.rename(aside, folder)
            sync(self._folder)
            log.info("stage %s: made in %.1f s", stage, seconds)
            return StageOutput(path=folder, key=key, cached=False, seconds=seconds)

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[Path]:
        """Hold the lock of the stage `folder`; yields the folder to write aside in, which is gone at the end."""
        aside = folder.with_name(_TEMP + folder.name)
        with locked(self._lock(folder.name)):
            remove(aside)
            try:
                yield aside
            finally:
                remove(aside)

    def _lock(self, name: str) -> Path:
        return make_folder(self._folder / ".locks") / name

    def _sweep(self) -> None:
        """Remove what killed runs left: a temporary folder whose lock is free has no living owner."""
        for left in self._folder.glob(_TEMP + "*"):
            with locked(self._lock(left.name.removeprefix(_TEMP)), wait=False) as held:
                if held:
                    remove(left)


def _make_aside(aside: Path, identity: Mapping[str, JSON], key: str, make: Callable[[Path], None]) -> float:
    remove(aside)
    aside.mkdir()
    start = time.perf_counter()
    make(aside)
    seconds = time.perf_counter() - start
    records = seal(aside)
    if RECORD in records:
        raise InputError(f"stage {identity['stage']}: wrote a file named {RECORD}, which the cache keeps for itself")
    write_json(aside / RECORD, {**identity, "key": key, "seconds": seconds, "files": records_to_json(records)})
    sync_folders(aside)
    return seconds


def _seconds_if_whole(folder: Path, key: str) -> float | None:
    """The seconds that making `folder` took, or None when it is not there or not as it was written."""
    if not os.path.lexists(folder):
        return None
    try:
        data = (folder / RECORD).read_bytes()
        found = json.loads(data)
        if not isinstance(found, dict) or found.get("key") != key or rendered(found) != data:
            raise IntegrityError(f"file {RECORD!r} is not as it was written")
        records = records_from_json(found.get("files"), RECORD)
        wrong = next(defects(folder, records, index=RECORD), None)
        if wrong is not None:
            raise IntegrityError(wrong)
        return float(found["seconds"])
    except IntegrityError as error:
        log.warning("stage output %s cannot be trusted and is made again: %s", folder, error)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("stage output %s cannot be trusted and is made again: file %r: %s", folder, RECORD, error)
    return None


def _source_digest(file: str) -> str:
    """The SHA-256 of a module file's text, found through its root package without importing the module."""
    root, _, rest = file.partition("/")
    spec = importlib.util.find_spec(root) if root.isidentifier() else None
    for location in (spec and spec.submodule_search_locations) or ():
        path = Path(location, rest)
        if rest and path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
    raise InputError(f"code {file!r}: no such module file in an installed package; name one as retrieval/encoder.py")
