"""Files of records (JSON lines, CSV, TSV, Parquet) as frames that remember the line each row came from.

Polars parses; where it refuses, or is known to lose something, Python reads the lines again, slower, and says which one
is wrong. Nested values become JSON text, so that every column is a scalar.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from retrieval.errors import InputError
from retrieval.files import read_binary_file, read_text_file

FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


class _Unquoted(csv.excel_tab):
    quoting = csv.QUOTE_NONE


@dataclass(frozen=True)
class Records:
    """Rows read from `name`, and `where(row)`, which names a row for a message: "corpus.jsonl, line 12"."""

    name: str
    frame: pl.DataFrame
    where: Callable[[int], str]

    def refuse(self, wrong: pl.Series, what: str) -> None:
        """Raise InputError naming the first row where `wrong` is true, if there is one."""
        if wrong.any():
            raise InputError(f"{self.where(int(wrong.arg_true()[0]))}: {what}")


def read_records(path: Path) -> Records:
    """Read `path` by its suffix, one of FORMATS; text formats may be gzip packed (`.csv.gz`).

    CSV and TSV need a header, and their columns are String, an empty field an empty text; TSV knows no quoting.
    Binary columns of Parquet are dropped.

    Raises InputError naming the file, and the line where there is one: missing, empty, unknown format, malformed, not
    UTF-8, a NUL or lone surrogate in a text.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path}: unknown format {suffix or path.name!r}; known are {', '.join(FORMATS)}")
    if suffix == ".parquet":
        return _parquet(path, read_binary_file(path))
    data = read_text_file(path)
    if suffix in (".csv", ".tsv"):
        return _separated(path, data, "," if suffix == ".csv" else "\t")
    frame = _json_fast(data)
    if frame is None:
        frame = _json_slow(path, data)
    return Records(str(path), frame, lambda row: f"{path}, line {next(islice(_filled(data), row, None))[0]}")


def read_lines(path: Path) -> pl.DataFrame:
    """The lines of a text file that are not blank: `qid`, the line's number from 1, and `query`, its text."""
    lines = [(number, line.decode().strip()) for number, line in _filled(read_text_file(path))]
    return pl.DataFrame(lines, schema={"qid": pl.Int64, "query": pl.String}, orient="row")


def _filled(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    return ((number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())


def _json_fast(data: bytes) -> pl.DataFrame | None:
    """The frame where Polars reads the lines faithfully, else None.

    Not trusted to it: nested values (as text they would be invalid JSON) and escaped NULs or surrogates (both come out
    as NUL). Where a column mixes strings with lists or objects it reads String too, so a bracketed text is suspect.
    """
    try:
        schema = pl.scan_ndjson(io.BytesIO(data), infer_schema_length=None).collect_schema()
        empty_objects = {name for name, dtype in schema.items() if dtype == pl.Struct([])}
        if any(dtype.is_nested() for name, dtype in schema.items() if name not in empty_objects):
            return None
        frame = pl.read_ndjson(
            io.BytesIO(data),
            schema={name: pl.String if name in empty_objects else dtype for name, dtype in schema.items()},
        )
    except pl.exceptions.PolarsError:
        return None
    for name, dtype in frame.schema.items():
        if dtype == pl.String and name not in empty_objects:
            text = frame[name]
            bracketed = (text.str.starts_with("[") & text.str.ends_with("]")) | (
                text.str.starts_with("{") & text.str.ends_with("}")
            )
            if bracketed.any() or text.str.contains("\0", literal=True).any():
                return None
    return frame


def _json_slow(path: Path, data: bytes) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, line in _filled(data):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: is not JSON: {error.msg} (column {error.colno})") from None
        except (ValueError, RecursionError):
            raise InputError(f"{where}: is not JSON that can be read: nested too deep, or too long a number") from None
        if not isinstance(row, dict):
            raise InputError(f'{where}: needs an object, such as {{"_id": "1", "text": "…"}}')
        if b"\\u" in line:
            _refuse_broken_text(row, where)
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame([scalars(name, [row.get(name) for row in rows]) for name in names])


def _refuse_broken_text(value: object, where: str) -> None:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for part in value:
            _refuse_broken_text(part, where)
    elif isinstance(value, str):
        if "\0" in value:
            raise InputError(f"{where}: holds a NUL character")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(f"{where}: holds a lone surrogate; text must be valid Unicode")


def scalars(name: str, values: Sequence[object]) -> pl.Series:
    """A column of scalars: of one type as they are, else String, with what is no string as JSON text."""
    types = {type(value) for value in values if value is not None}
    fits_int64 = all(-(2**63) <= value < 2**63 for value in values if type(value) is int)
    if len(types) == 1 and types <= {bool, int, float} and fits_int64:
        return pl.Series(name, values)
    texts = [
        value
        if value is None or isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, default=str, sort_keys=isinstance(value, dict))
        for value in values
    ]
    return pl.Series(name, texts, dtype=pl.String)


def _separated(path: Path, data: bytes, separator: str) -> Records:
    quote = '"' if separator == "," else None
    try:
        frame = pl.read_csv(io.BytesIO(data), separator=separator, quote_char=quote, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        _refuse_ragged(path, data, separator)
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: is not a table with {separator!r} between columns: {reason}") from error
    blank = pl.all_horizontal(pl.all().is_null() | (pl.all() == ""))
    frame = frame.filter(~blank)
    # A row that is too short ends in a null, as one with an empty last field does.
    if frame.height and frame.to_series(-1).null_count():
        _refuse_ragged(path, data, separator)
    frame = frame.with_columns(pl.all().fill_null(""))

    def where(row: int) -> str:
        filled = (line for line, fields in _rows(data, separator) if any(fields))
        return f"{path}, line {next(islice(filled, row + 1, None))}"

    return Records(str(path), frame, where)


def _rows(data: bytes, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row of a table, its header first, with the number of the line on which it begins. For messages only."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        dialect = csv.excel if separator == "," else _Unquoted
        reader = csv.reader(io.StringIO(data.decode(), newline=""), dialect, delimiter=separator, strict=True)
        line = 1
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def _refuse_ragged(path: Path, data: bytes, separator: str) -> None:
    """Raise InputError for the first row that has not as many fields as the header, if there is one."""
    rows, line, header = _rows(data, separator), 1, 0
    try:
        for line, fields in rows:
            header = header or len(fields)
            if fields and len(fields) != header:
                raise InputError(f"{path}, line {line}: has {len(fields)} fields, the header has {header}")
    except csv.Error as error:
        raise InputError(f"{path}, after line {line}: is not CSV: {error}") from error


def _parquet(path: Path, data: bytes) -> Records:
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: is not a Parquet file: {str(error).splitlines()[0]}") from error
    frame = frame.drop(pl.selectors.binary(), pl.selectors.object())
    plain = [
        scalars(column.name, column.to_list())
        if column.dtype.is_nested()
        else column.cast(pl.String)
        if column.dtype in (pl.Categorical, pl.Enum, pl.Null)
        else column
        for column in frame
    ]
    records = Records(str(path), pl.DataFrame(plain), lambda row: f"{path}, row {row + 1}")
    for column in records.frame:
        if column.dtype == pl.String:
            records.refuse(column.str.contains("\0", literal=True).fill_null(False), f"{column.name} holds a NUL")
    return records
