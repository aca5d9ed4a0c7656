"""What serving showed, kept so that it can be computed again: one record a request, with the exact feature values.

    FOLDER/requests-<UTC>-<pid>-<random>.jsonl    one file a writing process and bundle, so that writers never meet

A line is JSON, a tab, and a digest over the JSON and the digest of the line before, so that a line changed, lost or
moved is noticed (by accident or by hand; no key protects it from a forger). The first line says what served: the
bundle, the features' names, the versions and the machine. Numbers are float32 bytes, little-endian, in base64: they
come back bit by bit. Missing is one thing here, NaN: `features.assemble` has no other, and a stage that did not return
a document has no score for it.

A record is one write, and a writer that is killed in it leaves a tail without a line end at the end of its own file,
which is left out and said; nobody ever writes behind it. Records are not forced to the disk one by one: a power cut can
take the last seconds.
"""

import base64
import hashlib
import json
import logging
import os
import platform
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.durable import make_folder
from retrieval.errors import InputError, IntegrityError

log = logging.getLogger(__name__)

FORMAT = 1
STAGES = ("bm25", "dense", "fused")
ROTATE_BYTES = 256 << 20
_DIGEST_CHARS = 32
_NUMERIC = ("numpy", "polars", "torch", "sentence-transformers", "transformers", "bm25s", "lightgbm")
_FAISS = ("faiss-cpu", "faiss-gpu")
_REQUEST = {
    "id": pl.String(),
    "time": pl.String(),
    "qid": pl.String(),
    "query": pl.String(),
    "k": pl.Int64(),
    "depth": pl.Int64(),
    "candidates": pl.Int64(),
}


@dataclass(frozen=True)
class Origin:
    """What served: the bundle's name and fingerprint, the system, the features that it reads, and where it ran.

    environment: versions of what computes numbers and the processor, on which the last bits depend.
    """

    bundle: str
    fingerprint: str
    system: str
    features: tuple[str, ...]
    environment: Mapping[str, str] = field(compare=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**{**fields, "features": tuple(fields["features"])})


@dataclass(frozen=True)
class Session:
    """One file of a log.

    requests: id, time (UTC, ISO 8601), qid, query, k, depth, candidates; shown: id, docid, rank, score, the stages'
    scores `stage_bm25`, `stage_dense`, `stage_fused` and one column a feature, all Float32, NaN where missing.
    torn: bytes of a last record that its writer did not live to finish.
    """

    path: Path
    origin: Origin
    requests: pl.DataFrame
    shown: pl.DataFrame
    torn: int


def environment() -> dict[str, str]:
    """What the last bits of a score depend on: package versions and the processor."""
    installed = {name: version for name in ("cascade-ranking", *_NUMERIC, *_FAISS) if (version := _version(name))}
    return {**installed, "processor": _processor()}


class RequestLog:
    """Appends requests to a folder; safe for threads and for many processes on one folder.

    A file is opened by the first request that goes there, so a server may make this object before it forks, not after.

    Raises InputError or CascadeError where the folder cannot be made. A request that cannot be written (a full disk) is
    warned about once and counted in `dropped`: a search does not fail for its log's sake.
    """

    def __init__(self, folder: Path, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.folder = make_folder(folder)
        self.dropped = 0
        self._rotate_bytes = rotate_bytes
        self._writers: dict[Origin, _Writer] = {}
        self._lock = threading.Lock()

    def append(
        self,
        origin: Origin,
        query: Mapping[str, str],
        settings: Mapping[str, int],
        shown: pl.DataFrame,
    ) -> str:
        """Log one request and return its id.

        query: its qid and query; settings: k, depth and candidates as they were used; shown: the documents in their
        order with docid, score, the stages' scores `stage_…` and the columns of `origin.features`.
        """
        request_id = uuid.uuid4().hex
        names = ["score", *(f"stage_{stage}" for stage in STAGES), *origin.features]
        numbers = shown.select(names).to_numpy()  # numpy has NaN for a null
        record = {
            "id": request_id,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            **query,
            **settings,
            "docids": shown["docid"].to_list(),
            "numbers": base64.b64encode(np.ascontiguousarray(numbers, dtype="<f4").tobytes()).decode(),
        }
        with self._lock:
            try:
                self._writer(origin).write(record)
            except OSError as error:
                self.dropped += 1
                log.warning("%s: requests are not being logged (%s)", self.folder, error.strerror)
        return request_id

    def close(self) -> None:
        """Close the files; a later request opens a new one."""
        with self._lock:
            for writer in self._writers.values():
                writer.close()
            self._writers.clear()

    def _writer(self, origin: Origin) -> "_Writer":
        writer = self._writers.get(origin)
        if writer is None or writer.broken or writer.size > self._rotate_bytes:
            if writer is not None:
                writer.close()
            self._writers[origin] = writer = _Writer(self.folder, origin)
        return writer


class _Writer:
    """One file, which nobody else ever writes to."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(folder / f"requests-{stamp}.jsonl", flags, 0o644)
        self._digest = ""
        self.size = 0
        self.broken = False
        try:
            self.write({"format": FORMAT, **asdict(origin)})
        except OSError:
            self.close()
            raise

    def write(self, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        digest = _chained(self._digest, text)
        line = b"%s\t%s\n" % (text, digest.encode())
        try:
            self._write(line)
        except OSError:
            self._take_back()
            raise
        self._digest = digest
        self.size += len(line)

    def _write(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def _take_back(self) -> None:
        """Cut off what a full disk let through, or write no more to this file."""
        try:
            os.ftruncate(self._descriptor, self.size)
        except OSError:
            self.broken = True

    def close(self) -> None:
        os.close(self._descriptor)


def read_log(path: Path) -> list[Session]:
    """Every file of a log folder, or the one file that `path` is, in order of their names.

    A last record that its writer did not live to finish is left out, with a warning. Raises InputError where there is
    no log, IntegrityError naming file and line for one that is not as it was written.
    """
    files = sorted(path.glob("requests-*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise InputError(f"{path}: no request log; `cascade search … --log FOLDER` writes one")
    return [session for file in files if (session := _session(file))]


def _session(file: Path) -> Session | None:
    try:
        whole, _, tail = file.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    if tail:
        log.warning("%s: its last record is torn (%d bytes; its writer was killed) and left out", file, len(tail))
    if not whole:
        return None
    header, *records = _verified(file, whole.split(b"\n"))
    if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
        raise InputError(f"{file}: is no request log of format {FORMAT}, which this Cascade reads")
    try:
        origin = Origin.of(header)
        requests, shown = _frames(origin, records)
    except (KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise IntegrityError(f"{file}: a record is of another shape ({error}); no request log wrote it") from error
    return Session(file, origin, requests, shown, len(tail))


def _verified(file: Path, lines: Sequence[bytes]) -> Iterator[Any]:
    """The JSON value of every line; IntegrityError for the first that does not follow from those before it."""
    digest = ""
    for number, line in enumerate(lines, start=1):
        text, _, said = line.rpartition(b"\t")
        digest = _chained(digest, text)
        if said != digest.encode():
            raise IntegrityError(
                f"{file}, line {number}: altered since it was written (its digest does not follow from those before); "
                "restore the file, or move it out of the log"
            )
        yield json.loads(text)


def _frames(origin: Origin, records: Sequence[Mapping[str, Any]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The requests, and what they showed; see Session."""
    columns = {name: [record[name] for record in records] for name in _REQUEST}
    requests = pl.DataFrame(columns, schema=_REQUEST)
    names = ["score", *(f"stage_{stage}" for stage in STAGES), *origin.features]
    lengths = [len(record["docids"]) for record in records]
    blocks = [_numbers(record["numbers"], len(names)) for record in records]
    if [len(block) for block in blocks] != lengths:
        raise ValueError("as many rows of numbers as documents are right")
    numbers = np.concatenate([np.empty((0, len(names)), dtype=np.float32), *blocks])
    ranks = np.concatenate([np.empty(0, dtype=np.int32), *(np.arange(1, n + 1, dtype=np.int32) for n in lengths)])
    shown = pl.DataFrame(
        [
            requests["id"].gather(np.repeat(np.arange(len(lengths)), lengths)),
            pl.Series("docid", [docid for record in records for docid in record["docids"]], dtype=pl.String),
            pl.Series("rank", ranks),
            *(pl.Series(name, numbers[:, column]) for column, name in enumerate(names)),
        ]
    )
    return requests, shown


def _numbers(text: str, columns: int) -> NDArray[np.float32]:
    block: NDArray[np.float32] = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").reshape(-1, columns)
    return block


def _chained(before: str, text: bytes) -> str:
    return hashlib.sha256(before.encode() + text).hexdigest()[:_DIGEST_CHARS]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's model, where Linux tells it: kernels, and so last bits, are chosen by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()
