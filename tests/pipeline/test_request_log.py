"""The request log: exact numbers back, and no earlier record lost to whatever happens to the last."""

import logging
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.request_log import Origin, RequestLog, read_log
from retrieval.errors import InputError, IntegrityError

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = Origin("small", "f" * 64, "lambdamart", ("bm25_title", "cosine"), {"numpy": "2"})
SETTINGS = {"k": 10, "depth": 1000, "candidates": 100}
NUMBERS = ("score", "stage_bm25", "stage_dense", "stage_fused", *ORIGIN.features)


def shown(values: np.ndarray) -> pl.DataFrame:
    """Documents with `values` [documents, 6] as their numbers."""
    columns = {name: pl.Series(values[:, at], dtype=pl.Float32) for at, name in enumerate(NUMBERS)}
    return pl.DataFrame({"docid": [f"d{n}" for n in range(len(values))], **columns})


def ask(log: RequestLog, qid: str, documents: int = 3, origin: Origin = ORIGIN) -> str:
    values = np.random.default_rng(int(qid)).normal(size=(documents, len(NUMBERS))).astype(np.float32)
    return log.append(origin, {"qid": qid, "query": f"what is {qid}"}, SETTINGS, shown(values))


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


@given(
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=0, max_size=5 * len(NUMBERS)),
    query=st.text(st.characters(exclude_categories=("Cs",)), min_size=1),
)
@settings(max_examples=60, deadline=None)
def test_every_float32_and_every_text_comes_back(tmp_path_factory, bits, query):
    values = np.array(bits, dtype=np.uint32).view(np.float32)
    values = values[: len(values) // len(NUMBERS) * len(NUMBERS)].reshape(-1, len(NUMBERS))
    folder = tmp_path_factory.mktemp("log")
    log = RequestLog(folder)
    request = log.append(ORIGIN, {"qid": "1", "query": query}, SETTINGS, shown(values))
    (session,) = read_log(folder)
    assert session.origin == ORIGIN
    row = session.requests.row(0, named=True)
    assert (row["id"], row["qid"], row["query"], row["k"], row["depth"]) == (request, "1", query, 10, 1000)
    assert row["time"].endswith("+00:00")
    back = session.shown.select(NUMBERS).to_numpy()
    np.testing.assert_array_equal(back.astype(np.float32), values)  # NaN where NaN
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(np.signbit(back[numbers]), np.signbit(values[numbers]))
    assert session.shown["rank"].to_list() == list(range(1, len(values) + 1))
    assert session.shown["docid"].to_list() == [f"d{n}" for n in range(len(values))]


def test_a_null_and_a_nan_are_the_same_missing(tmp_path):
    frame = shown(np.ones((2, len(NUMBERS)), dtype=np.float32)).with_columns(
        cosine=pl.Series([None, float("nan")], dtype=pl.Float32)
    )
    log = RequestLog(tmp_path)
    log.append(ORIGIN, {"qid": "1", "query": "a"}, SETTINGS, frame)
    back = read_log(tmp_path)[0].shown["cosine"]
    assert back.null_count() == 0
    assert back.is_nan().all()


def test_a_record_cut_at_any_byte_loses_that_record_alone(tmp_path, caplog):
    log = RequestLog(tmp_path)
    kept = [ask(log, str(n)) for n in range(3)]
    before = only_file(tmp_path).stat().st_size
    ask(log, "3")
    log.close()
    file = only_file(tmp_path)
    whole = file.read_bytes()
    for size in range(before, len(whole)):
        file.write_bytes(whole[:size])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            (session,) = read_log(tmp_path)
        assert session.requests["id"].to_list() == kept
        assert session.torn == size - before
        assert ("torn" in caplog.text) == (size > before)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("log")
    log = RequestLog(folder)
    for n in range(3):
        ask(log, str(n), documents=1)
    file = only_file(folder)
    whole = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 2))  # the last byte is the end of the last line: without it, it is torn
    whole[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(whole)
    with pytest.raises(IntegrityError, match=r"line \d: altered since it was written"):
        read_log(folder)


def test_a_line_that_is_gone_moved_or_repeated_is_noticed(tmp_path):
    log = RequestLog(tmp_path)
    for n in range(3):
        ask(log, str(n))
    file = only_file(tmp_path)
    header, one, two, three = file.read_bytes().splitlines(keepends=True)
    for lines in ([header, two, three], [header, two, one, three], [header, one, one, two, three], [one, two, three]):
        file.write_bytes(b"".join(lines))
        with pytest.raises(IntegrityError, match="altered"):
            read_log(tmp_path)


def test_what_is_no_log_is_refused_in_words(tmp_path):
    with pytest.raises(InputError, match=r"no request log; .*--log FOLDER"):
        read_log(tmp_path / "missing")
    with pytest.raises(InputError, match="no request log"):
        read_log(tmp_path)
    (tmp_path / "requests-1.jsonl").write_text("{}\n")
    with pytest.raises(IntegrityError, match=r"requests-1\.jsonl, line 1"):
        read_log(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="in the way of the folder"):
        RequestLog(tmp_path / "file")


def test_a_new_bundle_and_a_full_file_begin_a_new_file(tmp_path):
    log = RequestLog(tmp_path, rotate_bytes=1000)
    for n in range(12):
        ask(log, str(n), origin=ORIGIN if n % 2 else Origin("other", "e" * 64, "bm25", ("bm25_title", "cosine"), {}))
    sessions = read_log(tmp_path)
    assert sum(session.requests.height for session in sessions) == 12
    assert {session.origin.bundle for session in sessions} == {"small", "other"}
    assert len(sessions) > 2
    assert max(file.stat().st_size for file in tmp_path.iterdir()) < 2000


CHILD = """
import os, sys
sys.path.insert(0, {root!r})
from tests.pipeline.test_request_log import *
log = RequestLog(Path(sys.argv[1]))
for n in range(int(sys.argv[2])):
    ask(log, str(n), documents=30)
    os.write(1, b".")
"""


def child(folder: Path, requests: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD.format(root=str(ROOT)), str(folder), str(requests)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def test_processes_that_log_at_once_lose_nothing(tmp_path):
    children = [child(tmp_path, 100) for _ in range(3)]
    assert [process.wait(60) for process in children] == [0, 0, 0]
    ids = pl.concat([session.requests["id"] for session in read_log(tmp_path)])
    assert (len(ids), ids.n_unique()) == (300, 300)


def test_killed_at_random_moments_every_record_that_was_said_is_there(tmp_path):
    draw = random.Random(3)
    said = 0
    for _ in range(6):
        process = child(tmp_path, 1_000_000)
        assert process.stdout is not None
        said += len(process.stdout.read(1))
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        said += len(process.communicate(timeout=60)[0])
    found = sum(session.requests.height for session in read_log(tmp_path))
    assert said > 100
    assert said <= found <= said + 6


FULL = """
import resource, sys
sys.path.insert(0, {root!r})
from tests.pipeline.test_request_log import *
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
log = RequestLog(Path(sys.argv[1]))
for n in range(6):
    ask(log, str(n), documents=20)
print(log.dropped)
"""


def test_a_full_disk_drops_requests_counts_them_and_keeps_the_file_whole(tmp_path):
    """Past the size that the process may write, a write is cut short, as on a full disk."""
    code = FULL.format(root=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    dropped = int(done.stdout)
    assert "requests are not being logged" in done.stderr
    sessions = read_log(tmp_path)
    assert sum(session.requests.height for session in sessions) == 6 - dropped
    assert dropped > 0
    assert all(session.torn == 0 for session in sessions)
