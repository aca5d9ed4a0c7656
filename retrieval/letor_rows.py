"""The rows of a LETOR / SVMLight ranking file, a part at a time, as arrays.

    label qid:Q 1:v 2:v … # docid = D …

Polars parses a part whose every row has exactly this form; where one does not, Python reads the part again, slower, and
either understands it or says which line is wrong. (So a row's form is decided in one place, `_read_line`.)
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval.errors import InputError
from retrieval.files import squeezed

MAX_GRADE = 30
"""LightGBM's highest label: its gains are 2^grade - 1."""
MAX_INDEX = 100_000
"""The highest feature index. Frames are dense: a wild index would ask for more memory than there is."""
MAX_CELLS = 2**32
"""The most values in one frame: 16 GiB of Float32."""

Ints = npt.NDArray[np.integer]

_OTHER_SPACES = (b"\t", b"\v", b"\f", b"\r")
_SPACES = bytes.maketrans(b"".join(_OTHER_SPACES), b"    ")
_TOKENS = bytes.maketrans(b" :", b"\n ")
_NO_MARKS = bytes(byte for byte in range(256) if byte not in b" :\n")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?nan", re.ASCII | re.IGNORECASE)
_FLOAT32_END = 2.0**128 - 2.0**103
"""From here on a number rounds to infinity in float32."""
_DOCID = r"^\s*docid(?:\s*[=:]\s*|\s+)(\S+)"


@dataclass(frozen=True)
class Rows:
    """Some rows of a file: qid and docid String [n] (docid null where no comment gives one), relevance Int32 [n], and
    values float32 [F, n], F the highest feature index among them; an absent feature is 0."""

    qid: pl.Series
    docid: pl.Series
    relevance: pl.Series
    values: npt.NDArray[np.float32]


def parse(path: Path, first_line: int, chunk: bytes) -> Rows | None:
    """The rows of `chunk`, whole lines of `path` from `first_line` on; None where it holds only blanks and comments.

    Raises InputError with file and line for the first row that is wrong.
    """
    comments = None
    body = chunk
    if b"#" in chunk:
        parts = [part for part in map(_cut_comment, chunk.split(b"\n")) if part[0]]
        body = b"\n".join(part[0] for part in parts)
        comments = [part[1].decode() for part in parts]
    # Most files have one space between tokens: tidying, which costs as much as parsing, waits until it is needed.
    # (Other space is not left to Polars, which takes a tab before a number for a part of it.)
    rows = None if any(space in body for space in _OTHER_SPACES) else _fast(path, body, comments)
    if rows is None:
        body = _tidy(body)
        if not body:
            return None
        rows = _fast(path, body, comments)
    return _slow(path, first_line, chunk) if rows is None else rows


def filled_lines(first_line: int, chunk: bytes) -> Iterator[tuple[int, bytes, str]]:
    """The rows of `chunk` with their line numbers: (number, row, comment)."""
    for number, line in enumerate(chunk.split(b"\n"), first_line):
        row, comment = _cut_comment(line)
        if row:
            yield number, row, comment.decode()


def _cut_comment(line: bytes) -> tuple[bytes, bytes]:
    row, _, comment = line.partition(b"#")
    return row.strip(), comment


def _tidy(body: bytes) -> bytes:
    """One space between tokens, none at the ends of a row, no blank row, one newline at the end; or nothing at all."""
    body = squeezed(body.translate(_SPACES), b"  ", b" ")
    body = squeezed(squeezed(body, b" \n", b"\n"), b"\n ", b"\n").strip(b" \n")
    return squeezed(body, b"\n\n", b"\n") + b"\n" if body else b""


def _docids(comments: list[str] | None, rows: int) -> pl.Series:
    if comments is None:
        return pl.Series([None], dtype=pl.String).new_from_index(0, rows)
    return pl.Series(comments, dtype=pl.String).str.extract(_DOCID)


def _fast(path: Path, body: bytes, comments: list[str] | None) -> Rows | None:
    """The rows where all are of the plain form, else None."""
    form = _form(body)
    if form is None:
        return None
    pairs, tail = form
    try:
        heads = pl.read_csv(
            body,
            has_header=False,
            separator=" ",
            quote_char=None,
            schema={"label": pl.Float64, "qid": pl.String},
            truncate_ragged_lines=True,
            extra_columns="ignore",
        )
        # A token a line: the label, qid and Q, then index and value. What is no number becomes null.
        tokens = pl.read_csv(
            body.translate(_TOKENS),
            has_header=False,
            separator=" ",
            quote_char=None,
            schema={"index": pl.UInt32, "value": pl.Float32},
            missing_columns="insert",
            ignore_errors=True,
        )
    except pl.exceptions.PolarsError:
        return None
    label, qid = heads["label"], heads["qid"]
    if heads.height != len(pairs) or label.null_count() or qid.null_count():
        return None
    if not (label.is_between(0, MAX_GRADE) & (label == label.floor())).all():
        return None
    if not (qid.str.starts_with("qid:") & (qid.str.len_bytes() > len("qid:"))).all():
        return None
    values = _scattered(path, tokens, pairs, tail)
    if values is None:
        return None
    return Rows(qid.str.slice(len("qid:")), _docids(comments, len(qid)), label.cast(pl.Int32), values)


def _form(body: bytes) -> tuple[Ints, Ints] | None:
    """The pairs in each row [n], and 1 where a space ends it [n]; None where a row is not of the plain form.

    Read from what separates the tokens alone: each row must be marked " :" for its qid and once more for each pair.
    """
    marks = body.translate(None, _NO_MARKS)
    if not body.endswith(b"\n"):
        marks += b"\n"
    array = np.frombuffer(marks, dtype=np.uint8)
    ends = np.flatnonzero(array == ord("\n"))
    lengths = np.diff(ends, prepend=-1) - 1
    tail = lengths % 2
    if len(marks.replace(b" :", b"")) != len(ends) + tail.sum() or (array[ends[tail == 1] - 1] != ord(" ")).any():
        return None
    if tail.any() and body.count(b" \n") + body.endswith(b" ") != tail.sum():
        return None  # what follows the last space is a token, without its colon
    pairs = lengths // 2 - 1
    return None if pairs.min() < 0 else (pairs, tail)


def _scattered(path: Path, tokens: pl.DataFrame, pairs: Ints, tail: Ints) -> npt.NDArray[np.float32] | None:
    """values [F, n] from the tokens of n rows: two of its head, `pairs` [n] features, and an empty one where `tail` [n]
    is 1; None where an index or a value is not what it should be."""
    rows = len(pairs)
    ends = np.cumsum(pairs + 2 + tail)
    if tokens.height != ends[-1]:
        return None
    feature = np.ones(tokens.height, dtype=bool)
    starts = ends - (pairs + 2 + tail)
    feature[starts] = feature[starts + 1] = False
    feature[ends[tail == 1] - 1] = False
    tokens = tokens.filter(pl.Series(feature))
    if tokens["index"].null_count() or tokens["value"].null_count():
        return None
    index, value = tokens["index"].to_numpy(), tokens["value"].to_numpy()
    highest = int(index.max()) if len(index) else 0
    if len(index) and (index.min() < 1 or highest > MAX_INDEX or np.isinf(value).any()):
        return None
    refuse_too_large(path, rows, highest)
    cells = (index.astype(np.int64) - 1) * rows + np.repeat(np.arange(rows), pairs)
    values = np.zeros(highest * rows, dtype=np.float32)
    values[cells] = value
    seen = np.zeros(highest * rows, dtype=bool)
    seen[cells] = True
    return values.reshape(highest, rows) if np.count_nonzero(seen) == len(cells) else None


def refuse_too_large(path: Path, rows: int, features: int) -> None:
    """Raise InputError where a dense frame of this shape would hold more than MAX_CELLS values."""
    if rows * features > MAX_CELLS:
        raise InputError(
            f"{path}: {rows:,} rows of {features:,} features would take {rows * features * 4 / 2**30:.0f} GiB; at most "
            f"{MAX_CELLS * 4 // 2**30} GiB are read: is the highest feature index right?"
        )


def _slow(path: Path, first_line: int, chunk: bytes) -> Rows:
    """As `_fast`, a line at a time: for rows that Polars cannot be trusted with, and to name the one that is wrong."""
    lines = list(filled_lines(first_line, chunk))
    rows = [_read_line(row, f"{path}, line {number}") for number, row, _ in lines]
    highest = max((max(features, default=0) for _, _, features in rows), default=0)
    refuse_too_large(path, len(rows), highest)
    values = np.zeros((highest, len(rows)), dtype=np.float32)
    for column, (_, _, features) in enumerate(rows):
        for index, value in features.items():
            values[index - 1, column] = value
    return Rows(
        pl.Series([qid for _, qid, _ in rows], dtype=pl.String),
        _docids([comment for _, _, comment in lines], len(rows)),
        pl.Series([label for label, _, _ in rows], dtype=pl.Int32),
        values,
    )


def _read_line(row: bytes, where: str) -> tuple[int, str, dict[int, float]]:
    """(label, qid, {index: value}) of one row. Raises InputError that says what is wrong with it."""
    label, *rest = (token.decode() for token in row.split())
    grade = _number(label)
    if grade is None or not 0 <= grade <= MAX_GRADE or grade != int(grade):
        raise InputError(f"{where}: the label is {label}; it must be an integer from 0 to {MAX_GRADE}")
    if not rest or not rest[0].startswith("qid:") or rest[0] == "qid:":
        raise InputError(f"{where}: needs qid:Q after the label, found {rest[0] if rest else 'nothing'}")
    features: dict[int, float] = {}
    for pair in rest[1:]:
        name, colon, text = pair.partition(":")
        value = _number(text)
        if not colon or not re.fullmatch(r"\+?[0-9]+", name) or value is None:
            raise InputError(f"{where}: {pair} is no feature; it must be INDEX:NUMBER, such as 3:0.5")
        index = int(name[:20])
        if not 1 <= index <= MAX_INDEX:
            raise InputError(f"{where}: the feature index is {name}; indices go from 1 to {MAX_INDEX:,}")
        if index in features:
            raise InputError(f"{where}: feature {index} stands there twice; once is right")
        if abs(value) >= _FLOAT32_END:
            raise InputError(f"{where}: feature {index} is {text}; it must be finite in 32 bits, or nan where missing")
        features[index] = value
    return int(grade), rest[0].removeprefix("qid:"), features


def _number(text: str) -> float | None:
    if re.fullmatch(r"[+-]?inf(inity)?", text, re.IGNORECASE):
        return float(text)
    return float(text) if _NUMBER.fullmatch(text) else None
