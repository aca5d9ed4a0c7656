import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from retrieval.datasets import load
from retrieval.errors import InputError, MissingExtra
from retrieval.irds import read_irds


class Abstract(NamedTuple):
    doc_id: str
    title: str | None
    abstract: str


class Page(NamedTuple):
    doc_id: str
    body: bytes

    def default_text(self) -> str:
        return self.body.decode()


class Query(NamedTuple):
    query_id: str
    text: str


class Topic(NamedTuple):
    query_id: str
    title: str
    narrative: str


class Judgement(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int


class Part:
    def __init__(self, docs: Any = None, queries: Any = None, qrels: Any = None) -> None:
        self.docs, self.queries, self.qrels = docs, queries, qrels

    def has_docs(self) -> bool:
        return self.docs is not None

    def has_queries(self) -> bool:
        return self.queries is not None

    def has_qrels(self) -> bool:
        return self.qrels is not None

    def docs_iter(self) -> Any:
        return iter(self.docs)

    def queries_iter(self) -> Any:
        return iter(self.queries)

    def qrels_iter(self) -> Any:
        return iter(self.qrels)


class Catalogue:
    def __init__(self, **parts: Part) -> None:
        self.parts = {name.replace("__", "/"): part for name, part in parts.items()}

    def load(self, name: str) -> Part:
        return self.parts[name]


DOCS = [Abstract("d1", "One", "first"), Abstract("d2", None, "")]
QUERIES = [Query("q1", "who is first"), Query("q2", "who is second")]
QRELS = [Judgement("q1", "d1", 1), Judgement("q2", "d2", 2)]


def test_a_judged_id_is_the_test_split() -> None:
    dataset = read_irds("mine", Catalogue(mine=Part(DOCS, [Topic("q1", "who is first", "long")], QRELS[:1])))
    assert dataset.docs.rows() == [("d1", "One", "first"), ("d2", "", "")]
    assert dataset.queries.rows() == [("q1", "who is first")]
    assert dataset.qrels["test"].rows() == [("q1", "d1", 1)]
    assert (dataset.name, dataset.judged_split) == ("mine", "test")


def test_a_named_split_is_judged_under_its_name() -> None:
    assert read_irds("mine/dev", Catalogue(mine__dev=Part(DOCS, QUERIES, QRELS))).judged_split == "dev"


def test_a_parent_takes_the_judgements_of_its_parts() -> None:
    train, test = Part(DOCS, QUERIES[:1], QRELS[:1]), Part(DOCS, QUERIES[1:], QRELS[1:])
    dataset = read_irds("mine", Catalogue(mine=Part(DOCS, QUERIES), mine__train=train, mine__test=test))
    assert {split: frame.rows() for split, frame in dataset.qrels.items()} == {
        "train": [("q1", "d1", 1)],
        "test": [("q2", "d2", 2)],
    }


def test_documents_of_bytes_use_the_default_text() -> None:
    assert read_irds("m", Catalogue(m=Part([Page("d1", b"page")], QUERIES, QRELS))).docs.rows() == [("d1", "", "page")]


def test_odd_judgements_are_counted_and_carried_on(caplog: pytest.LogCaptureFixture) -> None:
    qrels = [*QRELS, Judgement("q1", "d1", 0), Judgement("q1", "d2", -2)]
    dataset = read_irds("mine", Catalogue(mine=Part(DOCS, QUERIES, qrels)))
    assert dataset.qrels["test"].rows() == [("q1", "d1", 1), ("q2", "d2", 2), ("q1", "d2", -2)]
    assert "irds:mine: dropped 1 judgements that repeat an earlier one" in caplog.text
    assert "irds:mine: 1 judgements have a negative relevance" in caplog.text


@pytest.mark.parametrize(
    ("catalogue", "message"),
    [
        (Catalogue(), "irds:mine: ir_datasets has no such id"),
        (Catalogue(mine=Part(DOCS)), "irds:mine: has no judged queries"),
        (Catalogue(mine=Part(None, QUERIES, QRELS)), "irds:mine: has no documents"),
        (Catalogue(mine=Part([], QUERIES, QRELS)), "irds:mine, documents: there are none"),
        (Catalogue(mine=Part([*DOCS, DOCS[0]], QUERIES, QRELS)), "irds:mine, document 1: docid 'd1' appears again"),
        (Catalogue(mine=Part(DOCS, [Query("q1", " ")], QRELS)), "irds:mine, query 1: is empty"),
        (Catalogue(mine=Part([Abstract("d1", "", "a\0")], QUERIES, QRELS)), "irds:mine, document 1: text holds a NUL"),
        (
            Catalogue(mine=Part([Abstract("d1", "", "a\ud800")], QUERIES, QRELS)),
            "irds:mine, documents: one holds a lone",
        ),
    ],
)
def test_what_cannot_be_ranked_and_judged_is_refused(catalogue: Catalogue, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_irds("mine", catalogue)


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtra, match=r'pip install "cascade-ranking\[data\]"'):
        load("irds:vaswani")


def test_the_real_package(tmp_path: Path) -> None:
    ir_datasets = pytest.importorskip("ir_datasets", reason='needs pip install "cascade-ranking[data]"')
    (tmp_path / "d.tsv").write_text("d1\tfirst text\nd2\tsecond text\n")
    (tmp_path / "q.tsv").write_text("q1\twho is first\n")
    (tmp_path / "qrels").write_text("q1 0 d1 1\n")
    mine = ir_datasets.create_dataset(
        docs_tsv=str(tmp_path / "d.tsv"), queries_tsv=str(tmp_path / "q.tsv"), qrels_trec=str(tmp_path / "qrels")
    )
    dataset = read_irds("mine", Catalogue(mine=mine))
    assert dataset.docs.rows() == [("d1", "", "first text"), ("d2", "", "second text")]
    assert dataset.qrels["test"].rows() == [("q1", "d1", 1)]
    with pytest.raises(InputError, match="irds:no/such: ir_datasets has no such id"):
        load("irds:no/such")
