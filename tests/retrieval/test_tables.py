import gzip
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.datasets import load
from retrieval.errors import InputError
from retrieval.records import read_records
from retrieval.tables import qrels_files

ROWS = [
    {"id": "007", "headline": 'Bond, "James"', "body": "first\nline", "year": 1962},
    {"id": "008", "headline": "", "body": "", "year": 1995},
]
MAPPING = {"docid": "id", "title": "headline", "text": "body"}
WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "jsonl": lambda frame, path: frame.write_ndjson(path),
    "csv": lambda frame, path: frame.write_csv(path),
    "parquet": lambda frame, path: frame.write_parquet(path),
    "jsonl.gz": lambda frame, path: path.write_bytes(gzip.compress(frame.write_ndjson().encode())),
}


@pytest.fixture
def judged(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "queries.jsonl").write_text('{"qid": "q1", "query": "who is first"}\n{"qid": "q2", "query": "two"}\n')
    (tmp_path / "qrels.txt").write_text("q1 0 007 1\nq2 0 008 2\n")
    return {"queries": tmp_path / "queries.jsonl", "qrels": tmp_path / "qrels.txt"}


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_same_corpus_from_every_format(tmp_path: Path, judged: dict[str, Path], suffix: str) -> None:
    corpus = tmp_path / f"films.{suffix}"
    WRITERS[suffix](pl.DataFrame(ROWS), corpus)
    dataset = load(corpus, columns=MAPPING, **judged)
    assert dataset.name == "films"
    assert dataset.docs.select("docid", "title", "text").rows() == [(r["id"], r["headline"], r["body"]) for r in ROWS]
    assert dataset.docs["year"].cast(pl.Int64).to_list() == [1962, 1995]
    assert dataset.qrels["test"].rows() == [("q1", "007", 1), ("q2", "008", 2)]


def test_usual_names_need_no_mapping(tmp_path: Path, judged: dict[str, Path]) -> None:
    corpus = tmp_path / "c.csv"
    corpus.write_text("_id,text\n007,a\n008,\n")
    assert load(corpus, **judged).docs.rows() == [("007", "", "a"), ("008", "", "")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.tsv", 'qid\tquery\nq1\ta "b" c\nq2\t"d\n'),
        ("q.tsv", 'q1\ta "b" c\nq2\t"d\n'),
        ("q.csv", '_id,text\nq1,"a ""b"" c"\nq2,"""d"\n'),
        ("q.jsonl", '{"id": "q1", "query": "a \\"b\\" c"}\n{"id": "q2", "query": "\\"d"}\n'),
    ],
)
def test_queries_from_every_format(tmp_path: Path, judged: dict[str, Path], name: str, content: str) -> None:
    (tmp_path / "c.csv").write_text("_id,text\n007,a\n008,b\n")
    (tmp_path / name).write_text(content)
    dataset = load(tmp_path / "c.csv", queries=tmp_path / name, qrels=judged["qrels"])
    assert dataset.queries.rows() == [("q1", 'a "b" c'), ("q2", '"d')]


def test_a_headerless_query_file_still_names_its_lines(tmp_path: Path, judged: dict[str, Path]) -> None:
    (tmp_path / "c.csv").write_text("_id,text\n007,a\n")
    (tmp_path / "q.tsv").write_text("q1\tone\nq2\ttwo\nq1\tthree\n")
    with pytest.raises(InputError, match=r"q\.tsv, line 1: qid 'q1' appears again on line 3"):
        load(tmp_path / "c.csv", queries=tmp_path / "q.tsv", qrels=judged["qrels"])


def test_a_split_a_file(tmp_path: Path, judged: dict[str, Path]) -> None:
    (tmp_path / "c.csv").write_text("_id,text\n007,a\n008,b\n")
    (tmp_path / "a.txt").write_text("q1 0 007 1\n")
    (tmp_path / "b.txt").write_text("q2 0 008 1\n")
    text = f"dev={tmp_path / 'a.txt'},test={tmp_path / 'b.txt'}"
    mapping = {"valid": tmp_path / "a.txt", "test": tmp_path / "b.txt"}
    for qrels in (text, mapping):
        dataset = load(tmp_path / "c.csv", queries=judged["queries"], qrels=qrels)
        assert {split: frame["qid"].to_list() for split, frame in dataset.qrels.items()} == {
            "valid": ["q1"],
            "test": ["q2"],
        }


@pytest.mark.parametrize(
    ("text", "message"),
    [("test=a,eval=b", "'eval=b' is no SPLIT=FILE"), ("test=a,test=b", "names the split 'test' twice")],
)
def test_judgements_option_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        qrels_files(text)


def test_a_file_name_with_an_equals_sign_is_a_file() -> None:
    assert qrels_files("k=1.txt") == {"test": Path("k=1.txt")}


BAD = [
    ("c.csv", "id,body\n1,a\n", {"docid": "ID"}, "has no column 'ID'; its columns are id, body"),
    (
        "c.csv",
        "key,body\n1,a\n",
        {},
        r"no column for docid \(looked for docid, _id, id, doc_id\); map one of key, body",
    ),
    ("c.csv", "id,body\n1,a\n", {"doc": "id"}, "columns: cannot map 'doc'; the columns to map are docid, title"),
    ("c.csv", "id,body\n", {}, "has no rows below its header"),
    ("c.csv", "", {}, "is empty"),
    ("c.csv", 'id,body\n1,"a\nb"\n\n1,c\n', {}, "line 2: docid '1' appears again on line 5"),
    ("c.csv", "id,body\n1,a\n,b\n", {}, "line 3: id is empty"),
    ("c.csv", "id,body\n1,a\n2\n", {}, "line 3: has 1 fields, the header has 2"),
    ("c.csv", "id,body\n1,a\n2,b,c\n", {}, "line 3: has 3 fields, the header has 2"),
    ("c.csv", 'id,body\n1,a\n2,"b\n', {}, "after line 2: is not CSV"),
    ("c.csv", "id,body\n1,a\0b\n", {}, "line 2: holds a NUL character"),
    ("c.csv", b"id,body\n1,a\n2,\xff\n", {}, "line 3: is not UTF-8"),
    ("c.parquet", "no parquet", {}, "is not a Parquet file"),
    ("c.csv.gz", b"\x1f\x8b\x08garbage", {}, "cannot be read"),
    ("c.txt", "x", {}, r"unknown format '\.txt'; known are \.jsonl, "),
]


@pytest.mark.parametrize(("name", "content", "columns", "message"), BAD)
def test_bad_corpora_are_refused(
    tmp_path: Path,
    judged: dict[str, Path],
    name: str,
    content: str | bytes,
    columns: dict[str, str],
    message: str,
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path / name, columns=columns, **judged)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.Series("id", [1.5, 2.5]), "column 'id' must be text, found Float64"),
        (pl.Series("id", ["1", None]), "c.parquet, row 2: has no id"),
        (pl.Series("id", ["1", "1"]), "c.parquet, row 1: docid '1' appears again on row 2"),
        (pl.Series("id", ["1", "2\0"]), "c.parquet, row 2: id holds a NUL"),
    ],
)
def test_bad_parquet_is_named_by_its_row(
    tmp_path: Path, judged: dict[str, Path], column: pl.Series, message: str
) -> None:
    pl.DataFrame([column, pl.Series("text", ["a", "b"])]).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "c.parquet", **judged)


def test_a_corpus_alone_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,text\n1,a\n")
    with pytest.raises(InputError, match="a corpus file needs its queries and its qrels beside it"):
        load(tmp_path / "c.csv")


def test_parquet_of_every_type_becomes_scalars(tmp_path: Path, judged: dict[str, Path]) -> None:
    frame = pl.DataFrame(
        {
            "docid": [7, 8],
            "text": pl.Series(["a", "b"], dtype=pl.Categorical),
            "tags": [["x", "y"], []],
            "place": [{"lat": 1.5}, None],
            "blob": [b"x", b"y"],
            "none": [None, None],
        }
    )
    frame.write_parquet(tmp_path / "c.parquet")
    docs = load(tmp_path / "c.parquet", **judged).docs
    assert docs.columns == ["docid", "title", "text", "tags", "place", "none"]
    assert docs["docid"].to_list() == ["7", "8"]
    assert docs["tags"].to_list() == ['["x", "y"]', "[]"]
    assert docs["place"].to_list() == ['{"lat": 1.5}', None]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), json_values, min_size=1), min_size=1, max_size=6))
def test_json_lines_keep_every_value(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    path = tmp_path_factory.mktemp("json") / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        frame = read_records(path).frame
    except InputError as error:
        assert "\\u0000" in path.read_text()
        assert "holds a NUL character" in str(error)  # noqa: PT017
        return
    assert frame.height == len(rows)
    for name in frame.columns:
        for row, value in zip(rows, frame[name], strict=True):
            wanted = row.get(name)
            if isinstance(value, str) and not isinstance(wanted, str):
                value = json.loads(value)
            assert value == wanted
