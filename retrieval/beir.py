"""Data sets in the layout of BEIR (Thakur et al., 2021): corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv."""

import logging
from pathlib import Path

from retrieval.datasets import Dataset, assemble
from retrieval.errors import InputError
from retrieval.records import Records, read_records
from retrieval.splits import ALIASES
from retrieval.tables import docs_of, queries_of
from retrieval.trec import read_qrels

log = logging.getLogger(__name__)

_DOCS = {"docid": "_id", "title": "title", "text": "text"}
_QUERIES = {"qid": "_id", "query": "text"}


def read_beir(folder: Path) -> Dataset:
    """The data set in `folder`, under the folder's name. Its `metadata` objects are kept as JSON text.

    Raises InputError naming the file, and the line where there is one: a missing or empty file, a malformed line, a
    missing or repeated `_id`, a missing `text`, an empty query, a broken judgement, nothing to judge on.
    """
    for name in ("corpus.jsonl", "queries.jsonl", "qrels"):
        if not (folder / name).exists():
            raise InputError(f"{folder}: no {name}; a BEIR folder has corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv")
    files = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv")) if path.stem in ALIASES}
    ignored = sorted(path.name for path in (folder / "qrels").iterdir() if path not in files.values())
    if ignored:
        log.warning("%s: ignored %d files that name no split: %s", folder / "qrels", len(ignored), ", ".join(ignored))
    corpus, queries = read_records(folder / "corpus.jsonl"), read_records(folder / "queries.jsonl")
    return assemble(
        folder.resolve().name,
        docs_of(corpus, _present(corpus, _DOCS)),
        queries_of(queries, _QUERIES),
        {name: read_qrels(path) for name, path in files.items()},
        where=str(folder / "qrels"),
    )


def _present(records: Records, columns: dict[str, str]) -> dict[str, str]:
    return {ours: theirs for ours, theirs in columns.items() if ours != "title" or theirs in records.frame.columns}
