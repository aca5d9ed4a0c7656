"""Data sets of the ir_datasets catalogue (MacAvaney et al., 2021), read through its own package."""

import importlib
import logging
from collections.abc import Iterable
from typing import Any, Protocol

import polars as pl

from retrieval.datasets import Dataset, assemble
from retrieval.errors import InputError, MissingExtra
from retrieval.frames import QRELS
from retrieval.records import Records
from retrieval.splits import ALIASES
from retrieval.tables import docs_of, queries_of

log = logging.getLogger(__name__)

_TITLES = ("title", "document_title", "headline")
_TEXTS = ("text", "body", "abstract", "contents")
_QUERIES = ("text", "query", "title")


class Catalogue(Protocol):
    """What is used of the module ir_datasets: `load(id)`, a KeyError where there is no such id."""

    def load(self, name: str) -> Any: ...


def read_irds(dataset_id: str, catalogue: Catalogue | None = None) -> Dataset:
    """The data set `dataset_id`, downloaded by ir_datasets where it is not on this machine yet.

    An id that has judgements is judged as test, under its own last part where that names a split (`…/dev`). One that
    has none (`beir/scifact`) takes those of its parts: `beir/scifact/train`, `/test` and so on. A document is its
    title and its text, body or abstract, else the text that ir_datasets calls default.

    Raises MissingExtra without the package, InputError for an unknown id and for one without documents or judgements.
    """
    catalogue = catalogue or _installed()
    where = f"irds:{dataset_id}"
    parent = _find(catalogue, dataset_id)
    if parent is None:
        raise InputError(f"{where}: ir_datasets has no such id; its catalogue is at https://ir-datasets.com")
    parts = {name: _find(catalogue, f"{dataset_id}/{name}") for name in ALIASES}
    if parent.has_qrels():
        last = dataset_id.rpartition("/")[2]
        parts = {last if last in ALIASES else "test": parent}
    judged = {name: part for name, part in parts.items() if part and part.has_qrels() and part.has_queries()}
    if not parent.has_docs() or not judged:
        raise InputError(f"{where}: has no {'judged queries' if parent.has_docs() else 'documents'} to rank and judge")
    docs = _records(f"{where}, document", (_document(document) for document in parent.docs_iter()))
    asked = {
        query.query_id: {"qid": query.query_id, "query": _first(query, _QUERIES)}
        for part in judged.values()
        for query in part.queries_iter()
    }
    return assemble(
        dataset_id,
        docs_of(docs, {"docid": "docid", "title": "title", "text": "text"}),
        queries_of(_records(f"{where}, query", list(asked.values())), {"qid": "qid", "query": "query"}),
        {name: _judgements(part, where) for name, part in judged.items()},
        where=where,
    )


def _installed() -> Catalogue:
    try:
        module: Catalogue = importlib.import_module("ir_datasets")
    except ImportError as error:
        raise MissingExtra('irds: needs the package ir-datasets: pip install "cascade-ranking[data]"') from error
    return module


def _find(catalogue: Catalogue, dataset_id: str) -> Any:
    try:
        return catalogue.load(dataset_id)
    except KeyError:
        return None


def _first(item: Any, fields: tuple[str, ...]) -> str:
    for field in fields:
        if isinstance(value := getattr(item, field, None), str):
            return value
    text: str = item.default_text()
    return text


def _document(document: Any) -> dict[str, str]:
    title = next((getattr(document, field) for field in _TITLES if hasattr(document, field)), None)
    return {"docid": document.doc_id, "title": title or "", "text": _first(document, _TEXTS)}


def _records(name: str, rows: Iterable[dict[str, str]]) -> Records:
    try:
        frame = pl.DataFrame(rows)
    except UnicodeEncodeError:
        raise InputError(f"{name}s: one holds a lone surrogate; text must be valid Unicode") from None
    records = Records(name, frame, lambda row: f"{name} {row + 1}")
    if not frame.width:
        raise InputError(f"{name}s: there are none")
    for column in frame:
        records.refuse(column.str.contains("\0", literal=True), f"{column.name} holds a NUL character")
    return records


def _judgements(part: Any, where: str) -> pl.DataFrame:
    rows = [(judged.query_id, judged.doc_id, judged.relevance) for judged in part.qrels_iter()]
    frame = pl.DataFrame(rows, schema=QRELS, orient="row").unique(["qid", "docid"], keep="first", maintain_order=True)
    repeated, negative = len(rows) - frame.height, int((frame["relevance"] < 0).sum())
    if repeated:
        log.warning("%s: dropped %d judgements that repeat an earlier one", where, repeated)
    if negative:
        log.warning("%s: %d judgements have a negative relevance; they count as 0", where, negative)
    return frame
