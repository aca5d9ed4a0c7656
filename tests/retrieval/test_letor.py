"""LETOR and SVMLight: what is read equals what plain loops and scikit-learn read; every refusal names a line."""

import gzip
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.errors import InputError
from retrieval.letor import check_splits, read_letor, write_letor

MQ2008 = Path(__file__).parents[2] / ".." / "shared" / "data" / "mq2008"
no_reset = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

IDS = st.text(st.sampled_from("abc019-_.é"), min_size=1, max_size=4)
VALUES = st.floats(width=32, allow_infinity=False)
FEATURES = st.dictionaries(st.integers(1, 9), VALUES, max_size=5)
ROWS = st.lists(st.tuples(st.integers(0, 30), IDS, FEATURES), min_size=1, max_size=12)
GAPS = st.sampled_from([" ", " ", " ", "  ", "\t"])
ENDS = st.sampled_from(["\n", "\n", " \n", "\r\n", "\n\n", "\n \n", "\n# a remark\n", " # no docid in here\n"])

Row = tuple[int, str, dict[int, float]]


def written(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def expected(rows: list[Row]) -> pl.DataFrame:
    """The frame of `rows`, gathered by query, made with dictionaries and loops."""
    highest = max((max(features, default=0) for _, _, features in rows), default=0)
    queries: dict[str, list[Row]] = {}
    for row in rows:
        queries.setdefault(row[1], []).append(row)
    records = [
        [qid, f"{number:05d}", label, *(features.get(index, 0.0) for index in range(1, highest + 1))]
        for qid, members in queries.items()
        for number, (label, _, features) in enumerate(members, 1)
    ]
    schema = {"qid": pl.String, "docid": pl.String, "relevance": pl.Int32}
    return pl.DataFrame(
        records, schema=schema | {f"f{n}": pl.Float32 for n in range(1, highest + 1)}, orient="row", strict=False
    )


@no_reset
@given(rows=ROWS, data=st.data(), packed=st.booleans(), part_bytes=st.sampled_from([400, 1 << 20]))
def test_any_order_gap_and_end_reads_as_plain_loops_do(
    rows: list[Row], data: st.DataObject, packed: bool, part_bytes: int, tmp_path: Path
) -> None:
    text = "".join(
        data.draw(GAPS).join([str(label), f"qid:{qid}", *(f"{i}:{v!r}" for i, v in features.items())]) + data.draw(ENDS)
        for label, qid, features in rows
    )
    if data.draw(st.booleans()):
        text = text.rstrip()  # the last newline may be missing
    path = written(tmp_path / ("x.txt.gz" if packed else "x.txt"), text)
    found = read_letor([path], part_bytes=part_bytes)
    assert found.equals(expected(rows))
    assert found.schema == expected(rows).schema


@no_reset
@given(rows=ROWS)
def test_a_plain_file_reads_as_scikit_learn_reads_it(rows: list[Row], tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    numbered = {qid: number for number, qid in enumerate(dict.fromkeys(qid for _, qid, _ in rows))}
    rows = sorted(((label, numbered[qid], f) for label, qid, f in rows), key=lambda row: row[1])
    text = "".join(
        f"{label} qid:{qid} {' '.join(f'{i}:{v!r}' for i, v in sorted(features.items()))}\n"
        for label, qid, features in rows
    )
    highest = max(max(features, default=1) for _, _, features in rows)
    x, y, qid = datasets.load_svmlight_file(
        io.BytesIO(text.encode()), n_features=highest, query_id=True, zero_based=False, dtype=np.float32
    )
    found = read_letor([written(tmp_path / "x.txt", text)])
    columns = found.drop("qid", "docid", "relevance")
    np.testing.assert_array_equal(columns.to_numpy().reshape(len(rows), -1), x.toarray()[:, : columns.width])
    assert found["relevance"].to_list() == y.astype(int).tolist()
    assert found["qid"].to_list() == qid.astype(str).tolist()


@pytest.mark.skipif(not MQ2008.is_dir(), reason="needs ../shared/data/mq2008")
def test_reads_every_value_of_a_published_collection() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    paths = [MQ2008 / f"S{part}.txt.gz" for part in (1, 2)]
    found = read_letor(paths)
    text = b"".join(gzip.decompress(path.read_bytes()) for path in paths)
    x, y, qid = datasets.load_svmlight_file(io.BytesIO(text), query_id=True, dtype=np.float32)
    np.testing.assert_array_equal(found.drop("qid", "docid", "relevance").to_numpy(), x.toarray())
    np.testing.assert_array_equal(found["relevance"], y)
    assert found["qid"].to_list() == qid.astype(str).tolist()
    assert found["docid"].to_list() == re.findall(r"#docid = (\S+)", text.decode())


@no_reset
@given(rows=ROWS, suffix=st.sampled_from(["txt", "txt.gz"]))
def test_written_features_come_back(rows: list[Row], suffix: str, tmp_path: Path) -> None:
    frame = expected(rows).with_columns(docid=pl.format("d-{}#", "docid"))
    write_letor(frame, tmp_path / f"x.{suffix}")
    assert read_letor([tmp_path / f"x.{suffix}"]).equals(frame)


def test_named_features_are_numbered_in_their_order_and_null_is_missing(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"qid": ["q"], "docid": ["d"], "relevance": [1], "title": ["kept out"], "bm25": [1.5], "age": [None]},
        schema_overrides={"relevance": pl.Int32, "age": pl.Float32},
    )
    write_letor(frame, tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text() == "1 qid:q 1:1.5 2:NaN #docid = d\n"


@pytest.mark.parametrize("qid", ["", "a b", "a#b"])
def test_an_id_that_could_not_be_read_back_is_not_written(qid: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"qid": [qid], "docid": ["d"], "relevance": pl.Series([1], dtype=pl.Int32), "f1": [1.0]})
    with pytest.raises(InputError, match="qid"):
        write_letor(frame, tmp_path / "x.txt")
    assert not (tmp_path / "x.txt").exists()


@pytest.mark.parametrize("comment", ["#docid = A-1 inc = 1 prob = 0.5", "#docid=A-1", "# docid A-1", "#docid: A-1"])
def test_the_docid_of_a_comment(comment: str, tmp_path: Path) -> None:
    found = read_letor(
        [written(tmp_path / "x", f"1 qid:1 1:2 {comment}\n0 qid:1 1:3\n0 qid:1 1:4 # docids are gone\n")]
    )
    assert found["docid"].to_list() == ["A-1", "00002", "00003"]


def test_rows_of_a_query_are_gathered_across_files(tmp_path: Path) -> None:
    first = written(tmp_path / "a", "0 qid:7 1:1\n1 qid:3 1:2\n2 qid:7 1:3\n")
    second = written(tmp_path / "b", "3 qid:3 3:4\n")
    found = read_letor([first, second])
    assert found.select("qid", "docid", "relevance", "f1", "f2", "f3").rows() == [
        ("7", "00001", 0, 1.0, 0.0, 0.0),
        ("7", "00002", 2, 3.0, 0.0, 0.0),
        ("3", "00001", 1, 2.0, 0.0, 0.0),
        ("3", "00002", 3, 0.0, 0.0, 4.0),
    ]


def test_what_is_nan_is_missing_and_what_is_absent_is_zero(tmp_path: Path) -> None:
    found = read_letor([written(tmp_path / "x", "1 qid:1 1:nan 2:NaN 4:1\n")])
    assert np.isnan(found.row(0)[3:5]).all()
    assert found.row(0)[5:] == (0.0, 1.0)


def test_progress_reaches_the_size_of_all_files(tmp_path: Path) -> None:
    paths = [written(tmp_path / name, "1 qid:1 1:1\n" * 2) for name in ("a.gz", "b")]
    heard: list[tuple[int, int]] = []
    read_letor(paths, progress=lambda done, total: heard.append((done, total)), part_bytes=16)
    total = sum(path.stat().st_size for path in paths)
    assert heard[-1] == (total, total)
    assert heard == sorted(heard)


GOOD = "0 qid:1 1:0.5 # fine\n\n1 qid:1 1:0.25\n"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("nan qid:1 1:1", "label is nan; it must be an integer from 0 to 30"),
        ("inf qid:1 1:1", "label is inf; it must"),
        ("1.5 qid:1 1:1", "label is 1.5; it must"),
        ("-1 qid:1 1:1", "label is -1; it must"),
        ("31 qid:1 1:1", "label is 31; it must"),
        ("good qid:1 1:1", "label is good; it must"),
        ("1 1:1 2:1", "needs qid:Q after the label, found 1:1"),
        ("1", "needs qid:Q after the label, found nothing"),
        ("1 qid: 1:1", "needs qid:Q after the label, found qid:"),
        ("1 QID:1 1:1", "needs qid:Q after the label, found QID:1"),
        ("1 qid:1 1:inf", "feature 1 is inf; it must be finite"),
        ("1 qid:1 1:-Infinity", "feature 1 is -Infinity; it must be finite"),
        ("1 qid:1 1:1e39", "feature 1 is 1e39; it must be finite in 32 bits"),
        ("1 qid:1 1:1 2", "2 is no feature; it must be INDEX:NUMBER"),
        ("1 qid:1 1:1 2:", "2: is no feature"),
        ("1 qid:1 1:1 :2", ":2 is no feature"),
        ("1 qid:1 1:1:2 3", "1:1:2 is no feature"),
        ("1 qid:1 1 1 2:2", "1 is no feature"),
        ("1 qid:1 1:one", "1:one is no feature"),
        ("1 qid:1 1:1_0", "1:1_0 is no feature"),
        ("1 qid:1 one:1", "one:1 is no feature"),
        ("1 qid:1 -1:1", "-1:1 is no feature"),
        ("1 qid:1 1:1 2:1 1:1", "feature 1 stands there twice"),
        ("1 qid:1 0:1", "feature index is 0; indices go from 1 to 100,000"),
        ("1 qid:1 100001:1", "feature index is 100001; indices"),
        ("1 qid:1 99999999999999999999999:1", "feature index is 9{23}; indices"),
    ],
)
@pytest.mark.parametrize("part_bytes", [30, 1 << 20])
def test_a_wrong_row_is_refused_by_file_and_line(row: str, complaint: str, part_bytes: int, tmp_path: Path) -> None:
    path = written(tmp_path / "bad.txt", GOOD + row + "\n" + GOOD)
    with pytest.raises(InputError, match=f"bad.txt, line 4: (the )?{complaint}") as refusal:
        read_letor([path], part_bytes=max(part_bytes, len(row) + 1))
    assert "\n" not in str(refusal.value)


def outcome(path: Path) -> pl.DataFrame | str:
    try:
        return read_letor([path]).filter(pl.col("qid") != "slow:ly")
    except InputError as refusal:
        return str(refusal)


@settings(no_reset, max_examples=200)
@given(
    edits=st.lists(st.tuples(st.integers(0, 60), st.sampled_from([*" :\n\t\r\f\xa0.-+019einfaqd#_", ""])), max_size=4),
    comment=st.booleans(),
)
def test_quick_and_slow_reading_agree_on_files_with_errors(
    edits: list[tuple[int, str]], comment: bool, tmp_path: Path
) -> None:
    text = "2 qid:7 1:0.5 3:nan 4:1e2\n0 qid:7 2:-1 5:2.25 \n1 qid:88 1:0 2:4\n"
    if comment:
        text = text.replace(" \n", " # docid = x-1 \n")
    for at, character in edits:
        text = text[:at] + character + text[at + 1 :]
    quick = outcome(written(tmp_path / "x", text))
    # A colon within a qid is legal and rare: Python, not Polars, reads a part that has one.
    slow = outcome(written(tmp_path / "x", text.rstrip("\n") + "\n0 qid:slow:ly\n"))
    if isinstance(quick, pl.DataFrame) and isinstance(slow, pl.DataFrame):
        assert quick.equals(slow)
    else:
        assert str(quick) == str(slow)


def test_a_document_twice_is_refused_where_it_comes_again(tmp_path: Path) -> None:
    first = written(tmp_path / "a", "0 qid:1 1:1 #docid = x\n0 qid:2 1:1 #docid = x\n")
    second = written(tmp_path / "b", "0 qid:1 1:1 #docid = y\n# remark\n\n0 qid:1 1:1 #docid = x\n")
    with pytest.raises(InputError, match=r"b, line 4: document 'x' appears twice for query '1'; once is right"):
        read_letor([first, second])


def test_a_query_of_too_many_rows_is_refused_at_the_first_too_many(tmp_path: Path) -> None:
    path = written(tmp_path / "x", "0 qid:1 1:1\n" + "0 qid:2 1:1\n" * 10_000)
    assert read_letor([path]).height == 10_001
    path = written(tmp_path / "x", "0 qid:2 1:1\n0 qid:1 1:1\n" + "0 qid:2 1:1\n" * 10_002)
    with pytest.raises(InputError, match=r"x, line 10002: query '2' has 10,003 rows; at most 10,000 are allowed"):
        read_letor([path])


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"# a remark alone\n", "is empty; it needs rows"),
        (b"1 qid:1 1:1\n1 qid:1 1:\xff\n", "line 2: is not UTF-8"),
        (b"1 qid:1 1:1\n1 qid:1 \x001:1\n", "line 2: holds a NUL"),
        (gzip.compress(b"1 qid:1 1:1\n" * 99, mtime=0)[:-9], "cannot be read: Compressed file ended"),
        (b"1" * 300, "line 1: is longer than"),
    ],
)
def test_a_file_that_is_none_is_refused(data: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(InputError, match=f"bad[:,] {complaint}"):
        read_letor([tmp_path / "bad"], part_bytes=100)


def test_no_file_a_missing_one_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no LETOR file was given"):
        read_letor([])
    with pytest.raises(InputError, match="gone: no such file"):
        read_letor([tmp_path / "gone"])
    with pytest.raises(InputError, match="cannot be read"):
        read_letor([tmp_path])


def test_more_than_memory_holds_is_refused_before_it_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "x", "".join(f"0 qid:{row // 9} 1:1\n" for row in range(45_000)) + "0 qid:x 100000:1\n")
    with pytest.raises(InputError, match="x: 45,001 rows of 100,000 features would take 17 GiB"):
        read_letor([path])


MEASURE = """
import resource, sys
from pathlib import Path
from retrieval.letor import read_letor
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
frame = read_letor([Path(sys.argv[1])], part_bytes=4 << 20)
print(peak() - before, frame.estimated_size())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_the_values_never_lie_in_memory_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = (" ".join(f"{at}:{value}" for at, value in enumerate(row, 1)) for row in rng.integers(0, 99, (1000, 120)))
    block = "".join(f"{row % 3} qid:{row // 50} {text}\n" for row, text in enumerate(pairs)).encode()
    with (tmp_path / "x").open("wb") as file:
        file.writelines(block.replace(b"qid:", b"qid:%d-" % number) for number in range(600))
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "x")],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    grown, size = map(int, run.stdout.split())
    assert size >= 600_000 * 120 * 4
    assert grown < 1.7 * size, grown / size


def judged(qids: list[str], **features: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        {"qid": qids, "docid": [f"d{n}" for n in range(len(qids))], "relevance": [1] * len(qids), **features},
        schema_overrides={"relevance": pl.Int32, **dict.fromkeys(features, pl.Float32)},
    )


def test_splits_come_back_with_the_features_of_the_first_in_its_order() -> None:
    splits = {"train": judged(["a", "b"], x=[1, 2], y=[3, 4]), "test": judged(["c"], y=[6], x=[5])}
    same = check_splits(splits)
    assert same["train"].equals(splits["train"])
    assert same["test"].equals(judged(["c"], x=[5], y=[6]))


def test_trailing_features_of_a_letor_split_are_zero() -> None:
    same = check_splits({"train": judged(["a"], f1=[1]), "test": judged(["c"], f1=[6], f2=[5])})
    assert same["train"].equals(judged(["a"], f1=[1], f2=[0]))


def test_a_missing_feature_is_named() -> None:
    full = judged(["a"], x=[1], y=[2], z=[3])
    with pytest.raises(InputError, match="test: missing the feature columns x, z, which train has"):
        check_splits({"train": full, "test": judged(["c"], y=[6])})
    with pytest.raises(InputError, match="train: missing the feature columns x, z, which test has"):
        check_splits({"train": judged(["c"], y=[6]), "test": full})
    with pytest.raises(InputError, match="test: missing the feature columns f1, which train has"):
        check_splits({"train": judged(["a"], f1=[1], f2=[2]), "test": judged(["c"], f2=[6])})


def test_a_query_in_two_splits_is_refused() -> None:
    splits = {"S1.txt": judged(["a", "b"]), "S2.txt": judged(["d"]), "S3.txt": judged(["c", "b"])}
    with pytest.raises(InputError, match=r"S3.txt: query 'b' is also in S1.txt \(1 queries are in both\)"):
        check_splits(splits)
