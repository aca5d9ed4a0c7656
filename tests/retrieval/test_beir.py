import json
from pathlib import Path

import pytest

from retrieval.datasets import Dataset, load
from retrieval.errors import InputError

DATA = Path(__file__).parents[3] / "shared" / "data"
CORPUS = ['{"_id": "d1", "title": "One", "text": "first"}', '{"_id": "d2", "title": "", "text": ""}']
QUERIES = ['{"_id": "q1", "text": "which is first"}', '{"_id": "q2", "text": "which is empty"}']
QRELS = ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q2\td2\t2"]


def beir(folder: Path, corpus: list[str] = CORPUS, queries: list[str] = QUERIES, **qrels: list[str]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("\n".join(corpus) + "\n")
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    for split, lines in (qrels or {"test": QRELS}).items():
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_small_folder_read_whole(tmp_path: Path) -> None:
    dataset = load(beir(tmp_path / "mine"))
    assert dataset.name == "mine"
    assert dataset.docs.rows() == [("d1", "One", "first"), ("d2", "", "")]
    assert dataset.queries.rows() == [("q1", "which is first"), ("q2", "which is empty")]
    assert dataset.qrels["test"].rows() == [("q1", "d1", 1), ("q2", "d2", 2)]
    assert set(dataset.qrels) == {"test"}


def test_metadata_is_json_text_and_scalars_are_columns(tmp_path: Path) -> None:
    answers = {"answers": ['a "b" \\ c', "é\n"], "more": {"x": None}}
    queries = [json.dumps({"_id": "q1", "text": "a", "metadata": answers, "n": 3}), '{"_id": "q2", "text": "[b]"}']
    dataset = load(beir(tmp_path / "x", queries=queries))
    kept, absent = dataset.queries["metadata"]
    assert json.loads(kept) == answers
    assert absent is None
    assert dataset.queries["n"].to_list() == [3, None]
    assert dataset.queries["query"].to_list() == ["a", "[b]"]


@pytest.mark.parametrize("metadata", ["{}", '{"a": [1]}'])
def test_empty_metadata_is_kept_alike_on_both_ways_of_reading(tmp_path: Path, metadata: str) -> None:
    queries = ['{"_id": "q1", "text": "a", "metadata": {}}', f'{{"_id": "q2", "text": "b", "metadata": {metadata}}}']
    dataset = load(beir(tmp_path / "x", queries=queries))
    assert dataset.queries["metadata"].to_list() == ["{}", metadata]


def test_a_corpus_without_titles_blank_lines_and_numeric_ids(tmp_path: Path) -> None:
    corpus = ['{"_id": 1, "text": "a"}', "", '{"_id": 2, "text": "b", "extra": 1.5}']
    dataset = load(beir(tmp_path / "x", corpus=corpus, test=[QRELS[0], "q1\t1\t1", "q2\t2\t1"]))
    assert dataset.docs.drop("extra").rows() == [("1", "", "a"), ("2", "", "b")]


BAD_LINES = [
    ('{"_id": "d3", "text": "c"', "corpus.jsonl, line 3: is not JSON: "),
    ('["d3", "c"]', "corpus.jsonl, line 3: needs an object, such as"),
    ("[" * 100_000, "corpus.jsonl, line 3: is not JSON that can be read: nested too deep"),
    ('{"title": "", "text": "c"}', "corpus.jsonl, line 3: has no _id"),
    ('{"_id": "", "text": "c"}', "corpus.jsonl, line 3: _id is empty"),
    ('{"_id": "d3", "title": "c"}', "corpus.jsonl, line 3: has no text"),
    ('{"_id": "d1", "text": "c"}', "corpus.jsonl, line 1: docid 'd1' appears again on line 3; ids must differ"),
    ('{"_id": "d3", "text": "c\\ud800"}', "corpus.jsonl, line 3: holds a lone surrogate"),
    ('{"_id": "d3", "text": "c\\u0000"}', "corpus.jsonl, line 3: holds a NUL character"),
    ('{"_id": "d3", "text": "c", "m": {"k": ["\\udc00"]}}', "corpus.jsonl, line 3: holds a lone surrogate"),
    ('{"_id": "d3", "text": "c\0"}', "corpus.jsonl, line 3: holds a NUL character"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_document_is_named_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(beir(tmp_path / "x", corpus=[*CORPUS, line]))
    assert str(error.value).startswith(f"{tmp_path / 'x'}/{message}")
    assert "\n" not in str(error.value)


BAD_QUERIES = [
    ('{"_id": "q1", "text": "again"}', "line 1: qid 'q1' appears again on line 4"),
    ('{"_id": "q3", "text": ""}', "line 4: is empty"),
    ('{"_id": "q3", "text": " \\n"}', "line 4: is empty"),
    ('{"_id": "q3"}', "line 4: has no text"),
    (json.dumps({"_id": "q3", "text": "x" * 2**20}), "line 4: has 1,048,576 characters; the limit is 8,192"),
    ('{"_id": "q3", "text": "\\udfff"}', "line 4: holds a lone surrogate"),
]


@pytest.mark.parametrize(("line", "message"), BAD_QUERIES)
def test_a_bad_query_is_named_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(beir(tmp_path / "x", queries=[*QUERIES, "", line]))
    assert f"queries.jsonl, {message}" in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_missing_empty_and_foreign_files(tmp_path: Path, name: str) -> None:
    folder = beir(tmp_path / "x")
    (folder / name).write_bytes(b" \n")
    with pytest.raises(InputError, match=f"{name}: is empty"):
        load(folder)
    (folder / name).write_bytes(b'{"_id": "1", "text": "ok"}\n{"_id": "2", "text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=f"{name}, line 2: is not UTF-8 text"):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {name}; a BEIR folder has corpus.jsonl, queries.jsonl and qrels"):
        load(folder)


def test_a_column_of_the_wrong_type(tmp_path: Path) -> None:
    corpus = ['{"_id": 1.5, "text": "a"}', '{"_id": 2.5, "text": "b"}']
    with pytest.raises(InputError, match="column '_id' must be text, found Float64"):
        load(beir(tmp_path / "x", corpus=corpus))


def test_judgements_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test\.tsv, line 2: relevance 'yes'"):
        load(beir(tmp_path / "x", test=[QRELS[0], "q1\td1\tyes"]))
    with pytest.raises(InputError, match="qrels: nothing to judge on: needs a test or dev split; found train"):
        load(beir(tmp_path / "y", train=QRELS))


def test_a_file_that_names_no_split_is_ignored_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = load(beir(tmp_path / "x", test=QRELS, small=QRELS))
    assert set(dataset.qrels) == {"test"}
    assert "ignored 1 files that name no split: small.tsv" in caplog.text


def shared(name: str) -> Dataset:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not there")
    return load(DATA / name)


@pytest.mark.parametrize(
    ("name", "documents", "queries", "judged", "judged_split"),
    [
        ("scifact", 5183, 1109, {"train": 647, "valid": 162, "test": 300}, "test"),
        ("nq", 2588, 1881, {"train": 1072, "valid": 268, "test": 541}, "dev"),
        ("cranfield", 1400, 225, {"test": 225}, "test"),
        ("vaswani", 11429, 93, {"test": 93}, "test"),
    ],
)
def test_real_folders(name: str, documents: int, queries: int, judged: dict[str, int], judged_split: str) -> None:
    dataset = shared(name)
    assert (dataset.docs.height, dataset.queries.height) == (documents, queries)
    assert {split: dataset.split_queries(split).height for split in dataset.qrels} == judged
    assert dataset.judged_split == judged_split


def test_real_answers_are_readable() -> None:
    metadata = shared("nq").queries["metadata"]
    assert all(isinstance(answer, str) for text in metadata for answer in json.loads(text)["answers"])
