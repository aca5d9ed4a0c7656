"""Published search bundles: everything that one search needs, in one folder, made current by one atomic rename.

    home/bundles/<name>-<id12>/   the files, and manifest.json: the size and SHA-256 of each file, the metadata, and the
                                  fingerprint of it all; never changed once it has this name
    home/current                  a symlink to the bundle that is served
    home/previous                 a symlink to the one before, for `rollback`

Readers take no lock. A reader resolves `current` once and then keeps to that folder; no bundle is ever deleted here, so
it stays whole for as long as the reader wants it.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.durable import (
    JSON,
    FileRecord,
    copy_file,
    defects,
    fingerprint,
    is_inside,
    locked,
    make_folder,
    records_from_json,
    records_to_json,
    regular_files,
    remove,
    rendered,
    swap_link,
    sync,
    sync_folders,
    write_json,
    writing,
)
from retrieval.errors import InputError, IntegrityError

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
_NAMED_DEFECTS = 3


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file was found to be as it was published.

    path:        the folder itself, no link
    name:        the data set's name
    fingerprint: SHA-256 over the name, the metadata and the name and content of every file
    metadata:    what the publisher said about it (JSON values)
    files:       the record of each file by its name in the bundle
    """

    path: Path
    name: str
    fingerprint: str
    metadata: Mapping[str, JSON]
    files: Mapping[str, FileRecord]

    def file(self, name: str) -> Path:
        """The path of a published file or folder; InputError when the bundle has none of that name."""
        if name not in self.files and not any(file.startswith(f"{name}/") for file in self.files):
            raise InputError(f"bundle {self.path}: holds no {name!r}; it holds {', '.join(self.files)}")
        return self.path / name


def _ignore(step: str) -> None:
    """No one listens to the steps."""


def publish(
    home: Path,
    *,
    name: str,
    files: Mapping[str, Path],
    manifest: Mapping[str, JSON],
    on_step: Callable[[str], None] = _ignore,
) -> Path:
    """Copy `files` into a bundle under `home`, make it current, and return its folder.

    name:     the data set's name; it begins the folder's name
    files:    name in the bundle -> the file or folder to copy
    manifest: metadata (fingerprints, settings, versions). No timestamps: the same inputs then give the same
              fingerprint, and a bundle that exists already is only made current
    on_step:  called with each step's name once it is done

    Killed at any moment, it leaves the old bundle current or the new one, whole. Publishers take turns.

    Raises InputError for sources and names that cannot be published, CascadeError when the disk is full; the bundle
    that was current then stays.
    """
    sources = _sources(files)
    metadata = _plain(manifest)
    with _alone(home) as bundles:
        aside = bundles / ".tmp-publish"
        remove(aside)
        try:
            with writing("the search bundle", bundles):
                content = _write_aside(aside, name, sources, metadata, on_step)
                folder = _settle(aside, bundles, f"{_slug(name)}-{content[:12]}", content)
                on_step("settled")
                _swap(home, folder, on_step)
        finally:
            remove(aside)
    return folder


def open_bundle(home_or_path: Path) -> Bundle:
    """Verify and open the current bundle of a home folder, or the bundle that is given.

    Every file's size and SHA-256 is checked before this returns, so that a native library never opens a file that is
    not as it was published (some of them abort the process, or answer wrongly). Within a process a file is hashed again
    only once its inode, size or times have changed.

    Raises InputError when nothing is published yet, IntegrityError naming the file that is truncated, altered, missing
    or not part of the bundle, and what to do.
    """
    if os.path.lexists(home_or_path / MANIFEST):
        return _read(home_or_path)
    if os.path.lexists(home_or_path / "current"):
        return _read(home_or_path / "current")
    raise InputError(f"no search bundle in {home_or_path} yet; `cascade run pydocs` publishes one")


def verify(folder: Path) -> None:
    """Raise IntegrityError, as `open_bundle` does, unless the bundle in `folder` is as it was published."""
    _read(folder)


def make_current(home: Path, bundle: Path) -> None:
    """Verify a bundle of `home/bundles` and make it current; the one before becomes `previous`.

    Raises InputError for a folder that is not in `home/bundles`, IntegrityError for a bundle that is not whole.
    """
    folder = bundle.resolve()
    if folder.parent != (home / "bundles").resolve():
        raise InputError(f"{bundle}: is not a bundle of {home}; name a folder in {home / 'bundles'}")
    with _alone(home):
        verify(folder)
        _swap(home, folder, _ignore)


def rollback(home: Path) -> Path:
    """Exchange `current` and `previous`, and return the folder that is now current.

    Raises InputError when there is no previous bundle, IntegrityError (current stays) when it is not whole.
    """
    with _alone(home):
        folder = (home / "previous").resolve()
        if not (home / "previous").is_symlink() or folder == (home / "current").resolve():
            raise InputError(f"no previous search bundle in {home} to go back to")
        verify(folder)
        _swap(home, folder, _ignore)
        return folder


@contextmanager
def _alone(home: Path) -> Iterator[Path]:
    """Be the only publisher of `home`; yields its folder of bundles."""
    bundles = make_folder(home / "bundles")
    with locked(bundles / ".lock"):
        yield bundles


def _sources(files: Mapping[str, Path]) -> dict[str, Path]:
    """`files` with every folder replaced by the files in it, sorted by name in the bundle."""
    found: dict[str, Path] = {}
    for name, source in files.items():
        if not is_inside(name):
            raise InputError(f"bundle file name {name!r}: must be a plain relative path, such as bm25/terms.json")
        if source.is_file():
            inner = {name: source}
        elif source.is_dir():
            inner = {f"{name}/{file}": source / file for file in regular_files(source)}
        else:
            raise InputError(f"{source}: to be published as {name!r}, but no such file or folder")
        for file in inner:
            if file in found or file == MANIFEST:
                raise InputError(f"bundle file name {file!r} is taken; give each file a name of its own")
        found |= inner
    for name in found:
        clash = next((parent.as_posix() for parent in Path(name).parents if parent.as_posix() in found), None)
        if clash is not None:
            raise InputError(f"bundle file name {clash!r} is both a file and the folder of {name!r}")
    return dict(sorted(found.items()))


def _write_aside(
    aside: Path, name: str, sources: Mapping[str, Path], metadata: Mapping[str, JSON], on_step: Callable[[str], None]
) -> str:
    """Write the whole bundle into the new folder `aside`, the manifest last; returns its fingerprint."""
    aside.mkdir()
    records = {}
    for file, source in sources.items():
        target = aside / file
        target.parent.mkdir(parents=True, exist_ok=True)
        records[file] = copy_file(source, target)
        on_step(f"copied {file}")
    content = _content(name, metadata, records)
    write_json(aside / MANIFEST, {**content, "fingerprint": fingerprint(content, "the manifest")})
    on_step("manifest written")
    sync_folders(aside)
    return fingerprint(content, "the manifest")


def _content(name: str, metadata: Mapping[str, JSON], records: Mapping[str, FileRecord]) -> dict[str, JSON]:
    return {"format": FORMAT, "name": name, "metadata": dict(metadata), "files": records_to_json(records)}


def _settle(aside: Path, bundles: Path, stem: str, content: str) -> Path:
    """Give the folder `aside` its final name, unless an intact bundle of the same content exists: then return that.

    A damaged one of that name is left as it is, for a reader may hold it: the new folder gets a number.
    """
    folder, number = bundles / stem, 1
    while os.path.lexists(folder):
        kept = _read_if_whole(folder)
        if kept is not None and kept.fingerprint == content:
            return folder
        number += 1
        folder = bundles / f"{stem}-{number}"
    os.rename(aside, folder)
    sync(bundles)
    return folder


def _swap(home: Path, folder: Path, on_step: Callable[[str], None]) -> None:
    """Point `current` at `folder`; before that, `previous` at what was current, if it is still good to go back to."""
    current = home / "current"
    if current.is_symlink() and current.resolve() == folder.resolve():
        return
    if current.is_symlink() and _read_if_whole(current) is not None:
        swap_link(home / "previous", os.readlink(current))
        on_step("previous swapped")
    swap_link(current, os.path.relpath(folder.resolve(), home.resolve()))
    on_step("current swapped")


def _read_if_whole(folder: Path) -> Bundle | None:
    try:
        return _read(folder)
    except IntegrityError as error:
        log.warning("set aside: %s", error)
        return None


def _read(link: Path) -> Bundle:
    """Verify and return the bundle that `link` is or points to now; IntegrityError says what to do."""
    folder = link.resolve()
    try:
        if not folder.is_dir():
            raise IntegrityError("its folder is missing")
        bundle = _parse(folder)
        wrong = list(islice(defects(folder, bundle.files, index=MANIFEST), _NAMED_DEFECTS))
    except IntegrityError as error:
        wrong = [str(error)]
    except OSError as error:
        wrong = [f"cannot read {error.filename}: {error.strerror}"]
    if wrong:
        remedy = "run `cascade run …` to publish it again, or `cascade rollback` to go back to the bundle before"
        raise IntegrityError(f"bundle {folder}: {'; '.join(wrong)}; {remedy}")
    return bundle


def _parse(folder: Path) -> Bundle:
    """Read the manifest, refusing any byte of it that `publish` would not have written."""
    if MANIFEST not in regular_files(folder):
        raise IntegrityError(f"file {MANIFEST!r} is missing")
    data = (folder / MANIFEST).read_bytes()
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"file {MANIFEST!r} has been altered: it is not JSON") from error
    if isinstance(manifest, dict) and manifest.get("format") != FORMAT:
        raise IntegrityError(f"file {MANIFEST!r} is of format {manifest.get('format')!r}; this Cascade reads {FORMAT}")
    match manifest:
        case {"name": str(name), "metadata": dict(metadata), "files": files, "fingerprint": str()}:
            records = records_from_json(files, f"file {MANIFEST!r}")
        case _:
            raise IntegrityError(f"file {MANIFEST!r} has been altered: it lacks parts of a manifest")
    content = _content(name, metadata, records)
    try:
        found = fingerprint(content, MANIFEST)
    except InputError as error:
        raise IntegrityError(f"file {MANIFEST!r} has been altered: {error}") from error
    if data != rendered({**content, "fingerprint": found}):
        raise IntegrityError(f"file {MANIFEST!r} has been altered (its fingerprint differs)")
    return Bundle(path=folder, name=name, fingerprint=found, metadata=metadata, files=records)


def _plain(manifest: Mapping[str, JSON]) -> dict[str, JSON]:
    """`manifest` as it will be read back: JSON has neither tuples nor keys that are numbers."""
    fingerprint(dict(manifest), "the manifest's metadata")
    plain: dict[str, JSON] = json.loads(rendered(dict(manifest)))
    return plain


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "dataset"
