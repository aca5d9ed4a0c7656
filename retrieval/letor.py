"""LETOR / SVMLight ranking files as judged FEATURES, and back: what MSLR, Istella, Yahoo and LETOR are published as.

A row is `label qid:Q 1:v 2:v … # docid = D …` (see `retrieval.letor_rows`). Features become the columns f1 … fN, N the
highest index that occurs; a feature that a row leaves out is 0, as SVMLight has it, and a literal `nan` is missing.
"""

import gzip
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from mmap import mmap
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from retrieval.errors import InputError
from retrieval.files import read_text_chunks
from retrieval.frames import QRELS, check
from retrieval.letor_rows import Ints, Rows, filled_lines, parse, refuse_too_large

MAX_ROWS = 10_000
"""LightGBM's longest query."""
_BLOCK = 50_000


def read_letor(
    paths: Sequence[Path],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    part_bytes: int = 32 << 20,
) -> pl.DataFrame:
    """Read `paths`, one after the other, as one frame: qid, docid: String, relevance: Int32, f1 … fN: Float32.

    Plain text or gzip. The rows of a query are gathered, in the order in which they came, queries in first-seen order;
    the same qid in two of the files is one query. Without a docid in its comment a row is called by its number within
    its query, 00001 on, so that the order of the names is the order of the rows. Files are streamed: beside the frame
    (4 bytes a value) memory holds one part of a file, `part_bytes` of text and what it parses to. progress(done, total)
    is in bytes, as the files lie there.

    Raises InputError with file and line for a row that is wrong (a label that is not an integer from 0 to 30, no qid,
    a malformed, repeated, infinite or out-of-range feature), a document that appears twice in a query and a query of
    more than 10,000 rows; with the file for one that is missing, empty, truncated or not text.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise InputError("no LETOR file was given; at least one is needed")
    columns = _Columns()
    heights = []
    for path, report in zip(paths, _shares(paths, progress), strict=True):
        before = columns.height
        for first_line, chunk in read_text_chunks(path, size=part_bytes, progress=report):
            rows = parse(path, first_line, chunk)
            if rows is not None:
                columns.add(path, rows)
        heights.append(columns.height - before)
        if not heights[-1]:
            raise InputError(f"{path}: is empty; it needs rows of: label qid:Q 1:v 2:v …")
    keys = columns.keys()
    order = _gathering(keys["qid"])
    keys = keys if order is None else keys[order]
    keys, named = _with_docids(keys)
    _refuse_rows(keys, named, order, paths, heights)
    return keys.select("qid", "docid", "relevance").hstack(list(columns.features(order)), in_place=True)


class _Columns:
    """The parts read so far, to be joined as columns.

    A part's values lie in a mapping of their own, which goes back to the system as soon as it is joined, and a column
    in the making takes memory only as far as it is filled: so all the values never lie there twice.
    """

    def __init__(self) -> None:
        self._keys: list[pl.DataFrame] = []
        self._blocks: deque[npt.NDArray[np.float32]] = deque()
        self.height = 0
        self.width = 0

    def add(self, path: Path, rows: Rows) -> None:
        self.height += len(rows.qid)
        self.width = max(self.width, len(rows.values))
        refuse_too_large(path, self.height, self.width)
        self._keys.append(pl.DataFrame({"qid": rows.qid, "docid": rows.docid, "relevance": rows.relevance}))
        block = np.frombuffer(mmap(-1, max(rows.values.nbytes, 1)), dtype=np.float32, count=rows.values.size)
        block = block.reshape(rows.values.shape)
        block[:] = rows.values
        self._blocks.append(block)

    def keys(self) -> pl.DataFrame:
        return pl.concat(self._keys).rechunk()

    def features(self, order: Ints | None) -> Iterator[pl.Series]:
        """f1 … fN, in `order`; what was added is gone then."""
        columns = deque(np.empty(self.height, dtype=np.float32) for _ in range(self.width))
        start = 0
        for keys in self._keys:
            block, end = self._blocks.popleft(), start + keys.height
            for at, column in enumerate(columns):
                column[start:end] = block[at] if at < len(block) else 0
            del block
            start = end
        for number in range(1, self.width + 1):
            column = columns.popleft()
            yield pl.Series(f"f{number}", pa.array(column if order is None else column[order]))


def _shares(paths: Sequence[Path], progress: Callable[[int, int], None]) -> Iterator[Callable[[int, int], None]]:
    """For each path, what to call as it is read so that `progress` hears of all of them together."""
    sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]

    def share(before: int) -> Callable[[int, int], None]:
        return lambda done, total: progress(before + done, sum(sizes))

    return (share(sum(sizes[:number])) for number in range(len(paths)))


def _gathering(qid: pl.Series) -> Ints | None:
    """The order that brings the rows of each query together; None where they are already."""
    if not qid.rle().struct.field("value").is_duplicated().any():
        return None
    first = pl.DataFrame({"qid": qid}).with_row_index("row").select(pl.col("row").min().over("qid"))["row"]
    return np.argsort(first.to_numpy(), kind="stable")


def _lengths(qid: pl.Series) -> Ints:
    return qid.rle().struct.field("len").to_numpy().astype(np.int64)


def _with_docids(keys: pl.DataFrame) -> tuple[pl.DataFrame, bool]:
    """`keys` with every docid filled, and whether any came from the files; the rows of a query are together."""
    named = keys["docid"].null_count() < keys.height
    if not keys["docid"].null_count():
        return keys, named
    lengths = _lengths(keys["qid"])
    starts = np.cumsum(lengths) - lengths
    number = pl.Series(np.arange(1, keys.height + 1) - np.repeat(starts, lengths))
    return keys.with_columns(
        docid=pl.col("docid").fill_null(number.cast(pl.String).str.zfill(len(str(MAX_ROWS))))
    ), named


def _refuse_rows(
    keys: pl.DataFrame, named: bool, order: Ints | None, paths: Sequence[Path], heights: Sequence[int]
) -> None:
    """Raise InputError for a query of too many rows and for a document that appears twice in a query."""

    def refuse(row: int, what: str) -> NoReturn:
        at = row if order is None else int(order[row])
        ends = np.cumsum(heights)
        file = int(np.searchsorted(ends, at, side="right"))
        number = _line_of(paths[file], at - int(ends[file]) + heights[file])
        raise InputError(f"{paths[file]}, line {number}: {what}")

    lengths = _lengths(keys["qid"])
    if lengths.max() > MAX_ROWS:
        query = int(lengths.argmax())
        row = int(lengths[:query].sum()) + MAX_ROWS
        refuse(row, f"query {keys['qid'][row]!r} has {lengths[query]:,} rows; at most {MAX_ROWS:,} are allowed")
    # One hash a pair decides at once when nothing repeats; only equal hashes are worth comparing in full.
    if named and keys.select((pl.col("qid").hash(0) ^ pl.col("docid").hash(1)).n_unique()).item() < keys.height:
        again = keys.select(~pl.struct("qid", "docid").is_first_distinct()).to_series()
        if again.any():
            row = int(again.arg_true()[0])
            refuse(row, f"document {keys['docid'][row]!r} appears twice for query {keys['qid'][row]!r}; once is right")


def _line_of(path: Path, row: int) -> int:
    """The line of the file's row number `row`, from 0. Reads the file again: only for errors."""
    for first_line, chunk in read_text_chunks(path):
        for number, _, _ in filled_lines(first_line, chunk):
            if row == 0:
                return number
            row -= 1
    raise InputError(f"{path}: has changed while it was read")


def check_splits(splits: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The judged FEATURES `splits` (by what to call them in messages, such as their files) with the same features.

    Features are the numeric columns beside qid, docid and relevance; all splits come back with them in the order of the
    first. Splits of LETOR files (all features called f1, f2, …) whose last features are missing get them as 0, since
    SVMLight leaves out what is 0.

    Raises InputError that names both splits for a query that is in two of them, and for a feature that one has and
    another has not.
    """
    for name, frame in splits.items():
        check(frame, QRELS, name)
    _refuse_shared_queries(splits)
    features = {name: _features(frame) for name, frame in splits.items()}
    union = list(dict.fromkeys(column for columns in features.values() for column in columns))
    letor = all(re.fullmatch(r"f[1-9][0-9]*", column) for column in union)
    same = {}
    for name, frame in splits.items():
        missing = [column for column in union if column not in frame.columns]
        if missing and not (letor and set(features[name]) == {f"f{n}" for n in range(1, len(features[name]) + 1)}):
            other = next(other for other, columns in features.items() if missing[0] in columns)
            raise InputError(f"{name}: missing the feature columns {', '.join(missing)}, which {other} has")
        padded = frame.with_columns(pl.lit(0, dtype=pl.Float32).alias(column) for column in missing)
        rest = [column for column in frame.columns if column not in features[name]]
        same[name] = padded.select(*rest, *union)
    return same


def _features(frame: pl.DataFrame) -> list[str]:
    return [column for column, dtype in frame.schema.items() if dtype.is_numeric() and column not in QRELS]


def _refuse_shared_queries(splits: Mapping[str, pl.DataFrame]) -> None:
    queries = {name: frame.select(pl.col("qid").unique(maintain_order=True)) for name, frame in splits.items()}
    names = list(queries)
    for second, name in enumerate(names):
        for other in names[:second]:
            shared = queries[other].join(queries[name], on="qid", how="semi", maintain_order="left")
            if not shared.is_empty():
                raise InputError(f"{name}: query {shared.item(0, 'qid')!r} is also in {other} ({shared.height} queries "
                                 "are in both); a query belongs to one split")  # fmt: skip


def write_letor(frame: pl.DataFrame, path: Path) -> None:
    """Write judged FEATURES as a LETOR file (gzip where `path` ends in .gz), its features numbered from 1 in their
    order, null as nan; `read_letor` gets the same values back, called f1 on.

    Raises InputError, and writes nothing, for an id that is empty, holds white space or a qid that holds a #.
    """
    check(frame, QRELS, "features to write")
    for column, wrong in (("qid", r"^$|[\s#\x00]"), ("docid", r"^$|[\s\x00]")):
        bad = frame.filter(pl.col(column).str.contains(wrong))
        if bad.height:
            value = bad.item(0, column)
            raise InputError(f"{column} {value!r} cannot stand in a LETOR file: it is empty, or has white space or #")
    features = [
        pl.format(f"{number}:{{}}", pl.col(column).cast(pl.Float32).fill_null(float("nan")).cast(pl.String))
        for number, column in enumerate(_features(frame), 1)
    ]
    head, comment = pl.format("{} qid:{}", "relevance", "qid"), pl.format("#docid = {}", "docid")
    line = pl.concat_str(head, *features, comment, separator=" ")
    with gzip.open(path, "wb") if path.name.endswith(".gz") else path.open("wb") as file:
        for block in frame.iter_slices(_BLOCK):
            file.write(("\n".join(block.select(line).to_series()) + "\n").encode())
