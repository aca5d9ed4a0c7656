"""Fusion against sums done by hand."""

from pathlib import Path

import polars as pl
import pytest

from retrieval.errors import InputError
from retrieval.frames import QRELS, SCORED, ranked
from retrieval.fusion import Fusion, even, fit


def run(*rows: tuple[str, str, float]) -> pl.DataFrame:
    return ranked(pl.DataFrame(rows, schema=dict(SCORED), orient="row"))


RUNS = {
    "bm25": run(("q", "a", 10.0), ("q", "b", 6.0), ("q", "c", 2.0)),
    "dense": run(("q", "c", 0.9), ("q", "d", 0.5), ("q", "a", 0.1)),
}


def scores(fused: pl.DataFrame) -> dict[str, float]:
    return dict(fused.select("docid", "score").iter_rows())


def test_min_max_sums_each_lists_own_scale() -> None:
    fused = Fusion("minmax", {"bm25": 0.5, "dense": 0.5}).fuse(RUNS, 10)
    assert scores(fused) == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.5, "d": 0.25})
    assert fused["docid"].to_list() == ["c", "a", "d", "b"]


def test_rrf_sums_reciprocal_ranks() -> None:
    fused = Fusion("rrf", {"bm25": 0.5, "dense": 0.5}).fuse(RUNS, 10)
    expected = {"a": 1 / 61 + 1 / 63, "b": 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 62}
    assert scores(fused) == pytest.approx({docid: value / 2 for docid, value in expected.items()})


def test_a_list_of_one_score_counts_full_and_queries_are_apart() -> None:
    runs = {"bm25": run(("q", "a", 3.0), ("r", "a", 8.0), ("r", "b", 4.0)), "dense": run(("r", "b", 1.0))}
    fused = Fusion("minmax", {"bm25": 0.5, "dense": 0.5}).fuse(runs, 10)
    assert fused.select("qid", "docid", "score").rows() == [("q", "a", 0.5), ("r", "b", 0.5), ("r", "a", 0.5)]


def test_weights_are_fitted_to_the_stage_that_is_right() -> None:
    good = run(*((f"q{n}", docid, score) for n in range(20) for docid, score in (("x", 2.0), ("y", 1.0))))
    bad = run(*((f"q{n}", docid, score) for n in range(20) for docid, score in (("y", 2.0), ("x", 1.0))))
    qrels = pl.DataFrame([(f"q{n}", "x", 1) for n in range(20)], schema=dict(QRELS), orient="row")
    fitted = fit({"good": good, "bad": bad}, qrels)
    assert fitted.weights["good"] > 0.5
    assert fitted.fuse({"good": good, "bad": bad}, 1)["docid"].unique().to_list() == ["x"]
    assert sum(fitted.weights.values()) == pytest.approx(1)


def test_where_nothing_is_relevant_the_weights_are_even(caplog: pytest.LogCaptureFixture) -> None:
    qrels = pl.DataFrame([("q", "a", 0), ("q", "b", -1)], schema=dict(QRELS), orient="row")
    assert fit(RUNS, qrels) == even(["bm25", "dense"])
    assert "nothing is relevant to any validation query" in caplog.text


def test_stored_and_read_back_and_refused_without_its_stages(tmp_path: Path) -> None:
    fusion = even(["bm25", "dense"])
    fusion.save(tmp_path / "fusion.json")
    assert Fusion.load(tmp_path / "fusion.json") == fusion
    with pytest.raises(InputError, match="needs runs of bm25, dense; found bm25"):
        fusion.fuse({"bm25": RUNS["bm25"]}, 10)
