"""Files that survive a crash: hashed, fsynced, and made visible by one atomic rename.

The stage cache and the search bundles are built from these few functions. POSIX only (flock, symlinks, fsync of a
folder).
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from retrieval.errors import CascadeError, InputError, IntegrityError

log = logging.getLogger(__name__)

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | float | bool | None"

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_SETTLED_NS = 1_000_000_000
_SHA256 = re.compile(r"[0-9a-f]{64}")

_verified: dict[tuple[int, int, int, int, int], str] = {}


@dataclass(frozen=True)
class FileRecord:
    """What a file held when it was sealed: its size in bytes and the SHA-256 of its content, in hexadecimal."""

    bytes: int
    sha256: str


def fingerprint(value: JSON, what: str) -> str:
    """The SHA-256 (hexadecimal) of `value` as canonical JSON: mapping order does not matter, NaN is refused.

    Raises InputError naming `what` for anything that JSON cannot hold.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what}: must be JSON values (text, finite numbers, lists, mappings): {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def digest(path: Path) -> str:
    """The SHA-256 of a file, read once a process for as long as its inode, size and times stand.

    A file changed within the last second is not remembered: a second change inside one tick of the file system's clock
    would leave its times as they were.
    """
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        identity = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        known = _verified.get(identity)
        if known is not None:
            return known
        settled = time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED_NS
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if settled:
        _verified[identity] = found
    return found


def make_folder(path: Path) -> Path:
    """Create `path` and its parents where they are missing, and return it.

    Raises InputError when a file stands in the way, CascadeError when the folder cannot be made (rights, space).
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{error.filename}: is in the way of the folder {path}; name another folder") from error
    except OSError as error:
        raise CascadeError(f"cannot make the folder {path}: {error.strerror}") from error
    return path


def sync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there; what cannot be removed now is left to a later run."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: JSON) -> None:
    """Write `value` to `path` as `rendered` JSON, forced to the disk."""
    path.write_bytes(rendered(value))
    sync(path)


def rendered(value: JSON) -> bytes:
    """`value` as the one JSON text that Cascade writes for it, so that equal values are equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def copy_file(source: Path, target: Path) -> FileRecord:
    """Copy `source` to `target`, forced to the disk; the record is of the bytes that were written."""
    seen, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            seen.update(chunk)
            size += writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return FileRecord(bytes=size, sha256=seen.hexdigest())


def regular_files(folder: Path) -> dict[str, os.stat_result]:
    """Every file under `folder`, sorted, by its name relative to it (with `/`).

    Raises IntegrityError for a symlink, a device or a pipe: none of them is content, and a link can lead outside.
    """
    found: dict[str, os.stat_result] = {}
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        for entry in (*folders, *files):
            path = Path(parent, entry)
            state = path.lstat()
            if stat.S_ISREG(state.st_mode):
                found[path.relative_to(folder).as_posix()] = state
            elif not stat.S_ISDIR(state.st_mode):
                name = path.relative_to(folder).as_posix()
                raise IntegrityError(f"{folder}: {name!r} is a link or a special file; only plain files belong here")
    return dict(sorted(found.items()))


def _refuse(error: OSError) -> None:
    """Without this, os.walk passes over a folder that cannot be read."""
    raise error


def seal(folder: Path) -> dict[str, FileRecord]:
    """Force every file under `folder` to the disk and return the record of each.

    Raises IntegrityError for anything that is not a plain file or folder.
    """
    records = {}
    for name, state in regular_files(folder).items():
        sync(folder / name)
        records[name] = FileRecord(bytes=state.st_size, sha256=digest(folder / name))
    return records


def sync_folders(folder: Path) -> None:
    """Force the entries of `folder` and of every folder in it to the disk, the deepest first."""
    for parent, _, _ in os.walk(folder, topdown=False):
        sync(Path(parent))


def defects(folder: Path, records: Mapping[str, FileRecord], *, index: str) -> Iterator[str]:
    """What is wrong with the files of `folder` against `records`, one phrase a file; the cheap checks come first.

    `index` is the one file that `records` does not list: the one that holds them.

    Raises IntegrityError for a link or a special file.
    """
    found = regular_files(folder)
    for name, record in records.items():
        if name not in found:
            yield f"file {name!r} is missing"
        elif found[name].st_size != record.bytes:
            yield f"file {name!r} has {found[name].st_size} bytes, not the {record.bytes} written"
    for name in found:
        if name not in records and name != index:
            yield f"file {name!r} does not belong here"
    for name, record in records.items():
        if name in found and found[name].st_size == record.bytes and digest(folder / name) != record.sha256:
            yield f"file {name!r} has been altered (its SHA-256 differs)"


def records_to_json(records: Mapping[str, FileRecord]) -> dict[str, JSON]:
    """`{name: {"bytes": …, "sha256": …}}`, sorted by name."""
    return {name: asdict(record) for name, record in sorted(records.items())}


def records_from_json(value: object, where: str) -> dict[str, FileRecord]:
    """Read what `records_to_json` wrote.

    Raises IntegrityError naming `where` for another shape and for a name that could lead out of its folder.
    """
    if not isinstance(value, dict):
        raise IntegrityError(f"{where}: its list of files is not a mapping")
    records = {}
    for name, record in value.items():
        if not is_inside(name):
            raise IntegrityError(f"{where}: the file name {name!r} leads out of the folder")
        match record:
            case {"bytes": int(size), "sha256": str(sha256)} if len(record) == 2 and _SHA256.fullmatch(sha256):
                records[name] = FileRecord(bytes=size, sha256=sha256)
            case _:
                raise IntegrityError(f"{where}: the record of the file {name!r} is malformed")
    return records


def is_inside(name: str) -> bool:
    """Whether `name` is a plain relative path (`a/b.npy`): not absolute, no `..`, no backslash, no NUL."""
    return not re.search(r"[\\\0]", name) and all(part not in ("", ".", "..") for part in name.split("/"))


def swap_link(link: Path, target: str) -> None:
    """Make the symlink `link` point at `target` by one atomic rename; the caller holds the lock of its folder.

    Raises InputError when something other than a symlink has that name.
    """
    if os.path.lexists(link) and not link.is_symlink():
        raise InputError(f"{link}: is not the symlink that belongs here; move it away")
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.replace(fresh, link)
    sync(link.parent)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` (flock: freed when its holder dies); yields False when taken and `wait` is False.

    The file stays: were it deleted, two processes could hold two locks of one name.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise CascadeError(f"cannot open the lock file {path}: {error.strerror}") from error
    held = False
    try:
        held = _try_lock(descriptor)
        if wait and not held:
            log.info("waiting for another process that holds %s", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            held = True
        yield held
    finally:
        if held:
            # A forked worker may share the descriptor, so closing alone would not free the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Turn a full disk under `folder` into a CascadeError of one line that names `what`; other errors pass."""
    try:
        yield
    except Exception as error:
        if isinstance(error, CascadeError) or not _out_of_room(error, folder):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        message = f"{what}: no room to write under {folder} ({reason}); free some space and run again, nothing was kept"
        raise CascadeError(message) from error


def _out_of_room(error: Exception, folder: Path) -> bool:
    """Native writers lose the errno: most keep its words, numpy has its own, and LightGBM just leaves a full disk."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    words = (*map(os.strerror, _NO_ROOM), "Not enough free space")
    return any(text in str(error) for text in words) or shutil.disk_usage(folder).free < _FULL_BYTES
