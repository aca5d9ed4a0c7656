"""TREC and BEIR files: what is read equals what a plain split reads, and every refusal names file and line."""

import gzip
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.errors import InputError
from retrieval.frames import RUN, ranked
from retrieval.trec import read_qrels, read_run, write_run

GOOD = b"1 Q0 a 1 1.5 tag\n"
BEIR = b"query-id\tcorpus-id\tscore\n"

IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\n\v\f\r "), min_size=1, max_size=6)
SCORES = st.floats(width=32, allow_nan=False)
GAPS = st.sampled_from([" ", "\t", "  ", " \t ", "\t\t"])
ENDS = st.sampled_from(["\n", "\r\n", " \n", "\n\n", "\n \n", "\n\t"])
no_reset = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@no_reset
@given(rows=st.dictionaries(st.tuples(IDS, IDS), SCORES, min_size=1, max_size=8), data=st.data())
def test_any_white_space_reads_as_a_plain_split_does(
    rows: dict[tuple[str, str], float], data: st.DataObject, tmp_path: Path
) -> None:
    text = "".join(
        data.draw(GAPS).join([qid, "Q0", docid, "1", repr(score), "tag"]) + data.draw(ENDS)
        for (qid, docid), score in rows.items()
    )
    # A first id that starts with the byte order mark would lose it, as it does in every reader.
    path = written(tmp_path / "x.run", "\ufeff".encode() + text.encode())
    assert read_run(path).rows() == [(qid, docid, score) for (qid, docid), score in rows.items()]


@no_reset
@given(rows=st.dictionaries(st.tuples(IDS, IDS), SCORES, min_size=1, max_size=8))
def test_written_runs_come_back(rows: dict[tuple[str, str], float], tmp_path: Path) -> None:
    scored = pl.DataFrame(
        [(qid.removeprefix("\ufeff") or "q", docid, score) for (qid, docid), score in rows.items()],
        schema=pl.Schema({"qid": pl.String, "docid": pl.String, "score": pl.Float32}),
        orient="row",
    ).unique(["qid", "docid"], maintain_order=True)
    run = ranked(scored)
    write_run(run, tmp_path / "x.run", "cascade")
    assert ranked(read_run(tmp_path / "x.run")).equals(run)


def test_the_written_file_is_trecs(tmp_path: Path) -> None:
    scored = pl.DataFrame({"qid": ["1", "1"], "docid": ["a", "b"], "score": pl.Series([0.1, 2.5], dtype=pl.Float32)})
    write_run(ranked(scored), tmp_path / "x.run", "tag")
    assert (tmp_path / "x.run").read_text() == "1 Q0 b 1 2.5 tag\n1 Q0 a 2 0.1 tag\n"


def test_scores_are_float32_and_the_rank_column_is_ignored(tmp_path: Path) -> None:
    """trec_eval reads a double and compares floats: 1 and 1.00000001 tie, and the larger docid is first."""
    path = written(tmp_path / "x.run", b"q Q0 a 1 1.00000001 t\nq Q0 b 2 1 t\nq Q0 c 3 1e39 t\nq Q0 d 4 -inf t\n")
    run = read_run(path)
    assert run["score"].to_list() == [1.0, 1.0, math.inf, -math.inf]
    assert ranked(run)["docid"].to_list() == ["c", "b", "a", "d"]


def test_gzip_is_seen_by_its_content(tmp_path: Path) -> None:
    assert read_run(written(tmp_path / "x.run", gzip.compress(GOOD))).rows() == [("1", "a", 1.5)]


def test_trec_qrels(tmp_path: Path) -> None:
    path = written(tmp_path / "qrels", b"301 0 FBIS3-10082 1\r\n301\t0\tFBIS3-10169  0\n\n302 Q0 \xe6\x96\x87 +2")
    assert read_qrels(path).rows() == [("301", "FBIS3-10082", 1), ("301", "FBIS3-10169", 0), ("302", "文", 2)]


def test_beir_qrels_may_hold_spaces_in_their_ids(tmp_path: Path) -> None:
    path = written(tmp_path / "test.tsv", BEIR.replace(b"\n", b"\r\n") + b"q 1\td 1\t1\r\n\r\nq\td\t0\r\n")
    assert read_qrels(path).rows() == [("q 1", "d 1", 1), ("q", "d", 0)]


def test_negative_relevance_is_kept_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        qrels = read_qrels(written(tmp_path / "qrels", b"1 0 a -2\n1 0 b 1\n1 0 c -1\n"))
    assert qrels["relevance"].to_list() == [-2, 1, -1]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'qrels'}: 2 judgements have a negative relevance; they count as 0"
    ]


@pytest.mark.parametrize(
    ("reader", "data", "line", "complaint"),
    [
        (read_run, GOOD + b"\n1 Q0 b 1 1\n", 3, "needs 6 columns (qid Q0 docid rank score tag), found 5"),
        (read_run, b"1 Q0 b 1 1\n" + GOOD, 1, "found 5"),
        (read_run, b"1 Q0 b 1 1 t x\n" + GOOD, 1, "found 7"),
        (read_run, b"1 Q0 b 1 1 t x\n1 Q0 b 1 1\n", 1, "found 7"),
        (read_run, b"1 Q0 b 1 1\n1 Q0 b 1 1 t x\n", 1, "found 5"),
        (read_run, GOOD + b"1 Q0 b 1 1 t x\n1 Q0 b 1 1\n", 2, "found 7"),
        (read_run, GOOD + b"1 Q0 b 1 NaN t\n", 2, "score 'NaN' is not a number"),
        (read_run, b"\n\n \t\n" + GOOD + b"1 Q0 b 1 high t\n", 5, "score 'high' is not a number"),
        (read_run, GOOD + b"2 Q0 a 1 1 t\n" + GOOD, 3, "document 'a' appears twice for query '1'"),
        (read_run, GOOD + b"2 Q0 \xff 1 1 t\n", 2, "not UTF-8"),
        (read_run, GOOD + b"2 Q0 \xed\xa0\x80 1 1 t\n", 2, "not UTF-8"),
        (read_run, GOOD + GOOD.replace(b"a", b"\0"), 2, "NUL"),
        (read_qrels, b"1 0 a 1\n1 0 b\n", 2, "needs 4 columns (qid iteration docid relevance), found 3"),
        (read_qrels, b"1 0 a 1\n1 0 b 0.5\n", 2, "relevance '0.5' is not a 32-bit integer"),
        (read_qrels, b"1 0 a 1\n1 0 b 3000000000\n", 2, "relevance '3000000000' is not a 32-bit integer"),
        (read_qrels, b"1 0 a 1\n1 0 b 0\n1 0 a 1\n", 3, "document 'a' appears twice for query '1'"),
        (read_qrels, BEIR + b"1\ta\t1\n\n1\tb\tyes\n", 4, "relevance 'yes'"),
        (read_qrels, BEIR + b"1\ta\t1\n1\t\t1\n", 3, "docid is empty"),
        (read_qrels, BEIR + b"1\ta\t1\n1 b 1\n", 3, "needs 3 columns (qid docid relevance), found 1"),
    ],
)
def test_refused_with_file_and_line(
    reader: Callable[[Path], pl.DataFrame], data: bytes, line: int, complaint: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "file", data)
    with pytest.raises(InputError, match=re.escape(complaint)) as caught:
        reader(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", [read_run, read_qrels])
@pytest.mark.parametrize(
    "data", [b"", b" \n\t\n", b"\xef\xbb\xbf", b"\x1f\x8bnot gzip", gzip.compress(GOOD, mtime=0)[:-9]]
)
def test_empty_and_broken_files_are_refused(
    reader: Callable[[Path], pl.DataFrame], data: bytes, tmp_path: Path
) -> None:
    path = written(tmp_path / "file", data)
    with pytest.raises(InputError, match=r"is empty|cannot be read") as caught:
        reader(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_beir_header_alone_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        read_qrels(written(tmp_path / "test.tsv", BEIR))
    with pytest.raises(InputError, match="nothing: no such file"):
        read_run(tmp_path / "nothing")
    with pytest.raises(InputError, match="cannot be read"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "tag", "complaint"),
    [
        ({"qid": "a b"}, "tag", "qid 'a b'"),
        ({"docid": ""}, "tag", "docid ''"),
        ({}, "my run", "tag 'my run'"),
        ({"score": math.nan}, "tag", "NaN"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    change: dict[str, object], tag: str, complaint: str, tmp_path: Path
) -> None:
    row = {"qid": "q", "docid": "d", "score": 1.0, "rank": 1, **change}
    with pytest.raises(InputError, match=complaint):
        write_run(pl.DataFrame([row], schema=dict(RUN)), tmp_path / "x.run", tag)
    assert not (tmp_path / "x.run").exists()


def test_reads_every_judgement_of_a_real_data_set() -> None:
    path = Path("../shared/data/scifact/qrels/test.tsv")
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    assert read_qrels(path).rows() == [(qid, docid, int(grade)) for qid, docid, grade in rows]
