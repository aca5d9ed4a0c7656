"""Records as DOCS and QUERIES, and a data set made of a user's own files: a corpus, its queries, its judgements."""

import re
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from retrieval.datasets import Dataset, assemble
from retrieval.errors import InputError
from retrieval.frames import DOCS, QUERIES, Schema
from retrieval.queries import check_queries
from retrieval.records import Records, read_lines, read_records
from retrieval.splits import ALIASES
from retrieval.trec import read_qrels

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "docid": ("docid", "_id", "id", "doc_id"),
    "title": ("title",),
    "text": ("text", "body", "contents"),
    "qid": ("qid", "_id", "id", "query_id", "query-id"),
    "query": ("query", "text"),
}
"""Where each of our columns is looked for when no mapping says otherwise, first found first taken."""

_SPLIT = re.compile(rf"({'|'.join(ALIASES)})=(.+)")


def read_own(
    corpus: Path,
    *,
    queries: Path,
    qrels: str | Path | Mapping[str, str | Path],
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """A data set of one's own files: `corpus` and `queries` as JSON lines, CSV, TSV or Parquet (`records.FORMATS`).

    columns: our column → theirs, for docid, title, text, qid and query, such as `{"docid": "id", "text": "body"}`;
        what is not mapped is looked for under COLUMNS. A corpus without titles is fine.
    qrels: TREC or BEIR judgements: one file (judged as test), a mapping from split to file, or that mapping written
        `train=a.tsv,valid=b.tsv,test=c.tsv`.

    All other scalar columns of the corpus and the queries are kept as metadata; nested ones become JSON text.
    Raises InputError naming the file and the line or column of whatever is wrong.
    """
    wrong = [name for name in columns or {} if name not in COLUMNS]
    if wrong:
        raise InputError(f"columns: cannot map {wrong[0]!r}; the columns to map are {', '.join(COLUMNS)}")
    records = read_records(corpus)
    asked = _headed(read_records(queries), columns)
    docs = docs_of(records, _found(records, ("docid", "title", "text"), columns))
    frames = {name: read_qrels(path) for name, path in qrels_files(qrels).items()}
    return assemble(
        corpus.name.removesuffix(".gz").rpartition(".")[0],
        docs,
        queries_of(asked, _found(asked, ("qid", "query"), columns)),
        frames,
        where=str(qrels),
    )


def read_queries(path: Path) -> pl.DataFrame:
    """QUERIES of a file of queries alone: a table as `read_own` takes it, or `.txt`, a query a line (qid: its number).

    Raises InputError naming the file and the line of whatever is wrong.
    """
    if path.suffix == ".txt":
        frame = read_lines(path).with_columns(pl.col("qid").cast(pl.String))
        check_queries(frame["query"], lambda row: f"{path}, line {frame['qid'][row]}")
        return frame
    asked = _headed(read_records(path), None)
    return queries_of(asked, _found(asked, ("qid", "query"), None))


def qrels_files(qrels: str | Path | Mapping[str, str | Path]) -> dict[str, Path]:
    """Split name → judgements file; see `read_own`. Raises InputError for a part of the text that names no split."""
    if isinstance(qrels, Mapping):
        return {name: Path(path) for name, path in qrels.items()}
    if isinstance(qrels, Path) or not _SPLIT.match(qrels):
        return {"test": Path(qrels)}
    files: dict[str, Path] = {}
    for part in qrels.split(","):
        match = _SPLIT.fullmatch(part.strip())
        if not match:
            raise InputError(f"qrels: {part!r} is no SPLIT=FILE, with a split of {', '.join(ALIASES)}")
        name, path = match.groups()
        if name in files:
            raise InputError(f"qrels: names the split {name!r} twice")
        files[name] = Path(path)
    return files


def docs_of(records: Records, columns: Mapping[str, str]) -> pl.DataFrame:
    """DOCS of `records`, `columns` being ours → theirs (`title` may be absent), the rest kept as metadata.

    Raises InputError naming the row for an id that is missing, empty or repeated and for a missing text. An empty text
    is a document all the same.
    """
    frame = _shaped(records, columns, DOCS)
    records.refuse(frame["text"].is_null(), f"has no {columns['text']}")
    return frame.with_columns(pl.col("title").fill_null(""))


def queries_of(records: Records, columns: Mapping[str, str]) -> pl.DataFrame:
    """QUERIES of `records`, as `docs_of` makes DOCS; every query passes `queries.check_query`."""
    frame = _shaped(records, columns, QUERIES)
    records.refuse(frame["query"].is_null(), f"has no {columns['query']}")
    check_queries(frame["query"], records.where)
    return frame


def _headed(records: Records, columns: Mapping[str, str] | None) -> Records:
    """Queries as MS MARCO has them, two columns without a header, get one: their "header" is then the first row."""
    names = records.frame.columns
    known = {*COLUMNS["qid"], *COLUMNS["query"], *(columns or {}).values()}
    if not re.search(r"\.tsv(\.gz)?$", records.name) or len(names) != 2 or known & set(names):
        return records
    first = pl.DataFrame({"qid": [names[0]], "query": [names[1]]})
    frame = pl.concat([first, records.frame.rename(dict(zip(names, ("qid", "query"), strict=True)))])
    return Records(records.name, frame, lambda row: records.where(row - 1))


def _found(records: Records, names: tuple[str, ...], columns: Mapping[str, str] | None) -> dict[str, str]:
    """Ours → theirs for `names`, by the mapping where it says so, else by the first known name that is there."""
    there = records.frame.columns
    found: dict[str, str] = {}
    for name in names:
        if columns and name in columns:
            found[name] = columns[name]
        elif match := next((known for known in COLUMNS[name] if known in there and known not in found.values()), None):
            found[name] = match
        elif name != "title":
            raise InputError(
                f"{records.name}: no column for {name} (looked for {', '.join(COLUMNS[name])}); "
                f"map one of {', '.join(there)}"
            )
    return found


def _shaped(records: Records, columns: Mapping[str, str], schema: Schema) -> pl.DataFrame:
    theirs = records.frame
    absent = [column for column in columns.values() if column not in theirs.columns]
    if absent:
        raise InputError(f"{records.name}: has no column {absent[0]!r}; its columns are {', '.join(theirs.columns)}")
    if not theirs.height:
        raise InputError(f"{records.name}: has no rows below its header")
    ours = {name: _text(records, columns[name]) if name in columns else pl.lit("") for name in schema}
    rest = [column for column in theirs.columns if column not in columns.values() and column not in schema]
    frame = theirs.select(**ours).with_columns(theirs.select(rest))
    key = next(iter(schema))
    records.refuse(frame[key].is_null(), f"has no {columns[key]}")
    records.refuse(frame[key] == "", f"{columns[key]} is empty; an id needs at least one character")
    if frame[key].n_unique() < frame.height:
        repeated = frame[key][int((~frame[key].is_first_distinct()).arg_true()[0])]
        first, second = (records.where(int(row)) for row in (frame[key] == repeated).arg_true()[:2])
        again = second.removeprefix(f"{records.name}, ")
        raise InputError(f"{first}: {key} {repeated!r} appears again on {again}; ids must differ")
    return frame


def _text(records: Records, column: str) -> pl.Series:
    series = records.frame[column]
    if series.dtype == pl.String or series.dtype.is_integer():
        return series.cast(pl.String)
    raise InputError(f"{records.name}: column {column!r} must be text, found {series.dtype}")
