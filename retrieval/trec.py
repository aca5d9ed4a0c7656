"""TREC runs and judgements, read and written whole: no loop over rows, every refusal with its file and line."""

import io
import logging
from collections.abc import Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NoReturn

import polars as pl

from retrieval.errors import InputError
from retrieval.files import read_text_file, squeezed
from retrieval.frames import QRELS, RUN, SCORED, check

log = logging.getLogger(__name__)

RUN_COLUMNS = ("qid", "Q0", "docid", "rank", "score", "tag")
QRELS_COLUMNS = ("qid", "iteration", "docid", "relevance")
BEIR_COLUMNS = ("qid", "docid", "relevance")
BEIR_HEADER = b"query-id\tcorpus-id\tscore"

# The characters that C's isspace() takes for space, as trec_eval does; the newline keeps its meaning.
_SPACES = bytes.maketrans(b"\t\v\f\r", b"    ")
_UNWRITABLE = r"^$|[ \t\n\v\f\r\x00]"


def read_run(path: str | PathLike[str]) -> pl.DataFrame:
    """Read a TREC run (`qid Q0 docid rank score tag`, any white space between, gzip or plain) as SCORED, in file order.

    The rank column is ignored, as trec_eval does: `frames.ranked` makes ranks from the scores. Scores are rounded to
    float32, the precision that trec_eval compares.

    Raises InputError with file and line for a wrong number of columns, a score that is not a number and a document
    that appears twice for a query; with the file for one that is missing, empty or not UTF-8.
    """
    source = _Source(Path(path), read_text_file(Path(path)), RUN_COLUMNS)
    table = source.table()
    score = table["score"].cast(pl.Float64, strict=False)
    wrong = score.is_null() | score.is_nan()
    if wrong.any():
        source.refuse(wrong, f"score {_first(table['score'], wrong)!r} is not a number, such as 12.5")
    run = table.select("qid", "docid", score.cast(pl.Float32).alias("score"))
    source.refuse_twice(run)
    return check(run, SCORED, str(path))


def read_qrels(path: str | PathLike[str]) -> pl.DataFrame:
    """Read judgements as QRELS, in file order: TREC (`qid iteration docid relevance`) or BEIR (tsv with its header).

    A first line `query-id<TAB>corpus-id<TAB>score` makes it BEIR's. Negative relevance, TREC's mark for spam, is kept,
    counted in a warning, and counts as 0 when a run is judged.

    Raises InputError with file and line for a wrong number of columns, a relevance that is no integer and a document
    judged twice for a query; with the file for one that is missing, empty or not UTF-8.
    """
    data = read_text_file(Path(path))
    if data.partition(b"\n")[0].strip() == BEIR_HEADER:
        source = _Source(Path(path), data, BEIR_COLUMNS, separator="\t", header=1)
    else:
        source = _Source(Path(path), data, QRELS_COLUMNS)
    table = source.table()
    relevance = table["relevance"].cast(pl.Int32, strict=False)
    if relevance.null_count():
        wrong = relevance.is_null()
        source.refuse(wrong, f"relevance {_first(table['relevance'], wrong)!r} is not a 32-bit integer, such as 1")
    qrels = table.select("qid", "docid", relevance.alias("relevance"))
    source.refuse_twice(qrels)
    negative = int((relevance < 0).sum())
    if negative:
        log.warning("%s: %d judgements have a negative relevance; they count as 0", path, negative)
    return check(qrels, QRELS, str(path))


def write_run(run: pl.DataFrame, path: str | PathLike[str], tag: str) -> None:
    """Write a RUN as a TREC run file; scores are written so that `read_run` gets the same float32 back.

    Raises InputError, and writes nothing, for an id or tag that is empty or holds white space, and for a NaN score.
    """
    check(run, RUN, "run to write")
    for name, values in (("qid", run["qid"]), ("docid", run["docid"]), ("tag", pl.Series([tag]))):
        wrong = values.str.contains(_UNWRITABLE)
        if wrong.any():
            raise InputError(
                f"{name} {_first(values, wrong)!r} cannot stand in a TREC run: no empty one, no white space"
            )
    if run["score"].is_nan().any():
        raise InputError("run to write: column score has NaN; scores must be numbers")
    lines = run.select("qid", pl.lit("Q0").alias("Q0"), "docid", "rank", "score", pl.lit(tag).alias("tag"))
    lines.write_csv(Path(path), include_header=False, separator=" ", quote_style="never")


class _Source:
    """One file of rows: its bytes, the table in them, and the line to name when a row is refused.

    A separator of " " stands for any run of white space, as in TREC's files; with a tab, ids may hold spaces.
    """

    def __init__(self, path: Path, data: bytes, columns: Sequence[str], separator: str = " ", header: int = 0) -> None:
        self.path, self.data, self.columns, self.separator, self.header = path, data, columns, separator, header

    def table(self) -> pl.DataFrame:
        """The file's rows, every column a String, blank lines left out."""
        if self.separator == " ":
            rows = squeezed(self.data.translate(_SPACES), b"  ", b" ")
            rows = squeezed(squeezed(rows, b" \n", b"\n"), b"\n ", b"\n").strip(b" \n")
        else:
            rows = self.data.replace(b"\r\n", b"\n").strip(b"\n")
        rows = squeezed(rows, b"\n\n", b"\n")
        for _ in range(self.header):
            rows = rows.partition(b"\n")[2]
        if not rows:
            raise InputError(f"{self.path}: is empty; it needs lines of {' '.join(self.columns)}")
        table = pl.read_csv(
            io.BytesIO(rows),
            has_header=False,
            separator=self.separator,
            quote_char=None,
            schema=dict.fromkeys(self.columns, pl.String),
            truncate_ragged_lines=True,
            missing_columns="insert",
            extra_columns="ignore",
        )
        empty = [column for column in self.columns if table[column].null_count()]
        # No row too short and the right number of separators in all: then no row is too long either.
        if empty or rows.count(self.separator.encode()) != table.height * (len(self.columns) - 1):
            self._refuse_columns(rows)
            self.refuse(table[empty[0]].is_null(), f"{empty[0]} is empty")
        return table

    def _refuse_columns(self, rows: bytes) -> None:
        """Raise InputError for the first row with a wrong number of columns, if there is one. Slow: only for errors."""
        counts = pl.Series([line.count(self.separator.encode()) + 1 for line in rows.split(b"\n")])
        wrong = counts != len(self.columns)
        if wrong.any():
            needs = f"needs {len(self.columns)} columns ({' '.join(self.columns)})"
            self.refuse(wrong, f"{needs}, found {_first(counts, wrong)}")

    def refuse(self, wrong: pl.Series, what: str) -> NoReturn:
        """Raise InputError for the first row where `wrong` is true."""
        nth = int(wrong.arg_true()[0]) + self.header
        filled = (number for number, line in enumerate(self.data.split(b"\n"), 1) if line.strip())
        raise InputError(f"{self.path}, line {next(islice(filled, nth, None))}: {what}")

    def refuse_twice(self, frame: pl.DataFrame) -> None:
        """Raise InputError for the first row whose (qid, docid) stood in an earlier one."""
        # One hash a row decides at once when nothing repeats; only equal hashes are worth comparing in full.
        if frame.select((pl.col("qid").hash(0) ^ pl.col("docid").hash(1)).n_unique()).item() == frame.height:
            return
        again = frame.select(~pl.struct("qid", "docid").is_first_distinct()).to_series()
        if again.any():
            row = frame.row(int(again.arg_true()[0]), named=True)
            self.refuse(again, f"document {row['docid']!r} appears twice for query {row['qid']!r}; once is right")


def _first(values: pl.Series, where: pl.Series) -> object:
    return values.filter(where)[0]
