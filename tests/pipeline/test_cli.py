"""The command line as a user meets it: what it prints, where, and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUN = "q1 Q0 d1 1 2.5 t\nq1 Q0 d2 2 1.5 t\nq2 Q0 d9 1 1.0 t\n"
OTHER = "q1 Q0 d2 1 2.5 t\nq1 Q0 d1 2 1.5 t\nq2 Q0 d3 1 1.0 t\n"
QRELS = "q1 0 d1 1\nq2 0 d3 2\nq3 0 d4 0\n"


def cascade(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=120)


def refused(*arguments: str | Path, cwd: Path) -> str:
    """Run a command that must be refused: exit code 2, one line on stderr, nothing printed, nothing written."""
    before = sorted(cwd.rglob("*"))
    done = cascade(*arguments, cwd=cwd)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr) < 500
    assert sorted(cwd.rglob("*")) == before
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("run.txt", RUN), ("other.txt", OTHER), ("qrels.txt", QRELS)):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_score_prints_one_json_object(folder: Path) -> None:
    done = cascade("score", "run.txt", "qrels.txt", "--metrics", "ndcg_cut_10,recip_rank", "--json", cwd=folder)
    scores = json.loads(done.stdout)
    assert (scores["blank"], scores["queries"], scores["blank_queries"]) == ("zero", 3, 1)
    assert scores["metrics"] == pytest.approx({"ndcg_cut_10": 1 / 3, "recip_rank": 1 / 3})


def test_score_says_what_a_blank_query_counts_and_compares(folder: Path) -> None:
    done = cascade(
        "score", "run.txt", "qrels.txt", "--blank", "one", "--against", "other.txt", "--per-query", "--json", cwd=folder
    )
    scores = json.loads(done.stdout)
    assert scores["metrics"]["ndcg_cut_10"] == pytest.approx(2 / 3)
    assert len(scores["per_query"]) == 3
    assert set(scores["against"]) == {"metrics", "difference", "ci95", "p_value"}
    table = cascade("score", "run.txt", "qrels.txt", cwd=folder)
    assert "ndcg_cut_10" in table.stdout
    assert "with nothing relevant" in table.stdout


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("q1 Q0 d1 1 nan t\n", "line 1"),
        ("q1 Q0 d1 1 1.0 t\nq1 Q0 d1 2 1.0 t\n", "line 2"),
        ("q1 Q0 d1 1.0\n", "line 1"),
        ("", "empty"),
    ],
)
def test_score_refuses_bad_runs_by_line(folder: Path, run: str, words: str) -> None:
    (folder / "bad.txt").write_text(run)
    said = refused("score", "bad.txt", "qrels.txt", cwd=folder)
    assert "bad.txt" in said
    assert words in said


def test_score_refuses_other_bad_input(folder: Path) -> None:
    (folder / "half.txt").write_text("q1 0 d1 1.5\n")
    assert "half.txt, line 1" in refused("score", "run.txt", "half.txt", cwd=folder)
    assert "no such file" in refused("score", "absent.txt", "qrels.txt", cwd=folder).lower()
    assert "known" in refused("score", "run.txt", "qrels.txt", "--metrics", "ndgc_cut_10", cwd=folder)
    assert "unknown blank policy" in refused("score", "run.txt", "qrels.txt", "--blank", "two", cwd=folder)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n', "'d1' appears again"),
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n{"_id": \n', "corpus.jsonl, line 2"),
        ("corpus.jsonl", "", "is empty"),
        ("queries.jsonl", '{"_id": "q1", "text": "  "}\n', "queries.jsonl, line 1"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}\n', "'q1' appears again"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\thigh\n", "test.tsv, line 2"),
    ],
)
def test_run_refuses_bad_data_by_file_and_line_and_writes_nothing(
    tmp_path: Path, file: str, text: str, words: str
) -> None:
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    (data / "corpus.jsonl").write_text('{"_id": "d1", "text": "a"}\n')
    (data / "queries.jsonl").write_text('{"_id": "q1", "text": "a"}\n')
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    (data / file).write_text(text)
    assert words in refused("run", "data", "--home", "home", cwd=tmp_path)


def test_run_and_search_refuse_what_is_not_there(tmp_path: Path) -> None:
    assert "nowhere" in refused("run", "nowhere", cwd=tmp_path)
    assert "cascade run pydocs" in refused("search", "a query", cwd=tmp_path)
    assert "cascade run" in refused("compare", cwd=tmp_path)
    assert "k must be at least 1; found 0" in refused("search", "a query", "--k", "0", cwd=tmp_path)
    assert "is empty" in refused("search", "   ", cwd=tmp_path)
    assert "give one query, or --queries FILE" in refused("search", cwd=tmp_path)


def test_features_are_listed(tmp_path: Path) -> None:
    assert "bm25_title" in cascade("features", cwd=tmp_path).stdout
