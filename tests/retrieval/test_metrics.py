"""The metrics against trec_eval itself (through pytrec_eval) and, where it has none, against plain Python."""

import logging
import math
import struct
from collections.abc import Callable

import polars as pl
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import InputError
from retrieval.frames import QRELS, SCORED
from retrieval.metrics import evaluate, fill_blank, mean, per_query

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]
# Grades in ranked order (None unjudged), all grades judged, and the top grade of the qrels -> the metric.
Oracle = Callable[[list[int | None], list[int], int], float]

TREC_NAMES = {
    "ndcg_cut_1": "ndcg_cut_1",
    "ndcg_cut_3": "ndcg_cut_3",
    "ndcg_cut_10": "ndcg_cut_10",
    "map": "map",
    "recip_rank": "recip_rank",
    "recall_2": "recall_2",
    "recall_5": "recall_5",
    "precision_2": "P_2",
    "precision_5": "P_5",
    "success_1": "success_1",
    "success_5": "success_5",
}
ALL = [*TREC_NAMES, "ndcg_exp_cut_3", "err_3", "err_10", "judged_3"]

# Doubles that only float32 makes equal, both zeros, and few values, so that ties abound.
SCORES = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-9, 1.0 - 1e-10, -3.5, 2.0, 1e-46, 1e39, math.inf, -math.inf])
# By bytes, as strcmp has it: "Z" < "a" < "é" < "文" < "😀" (UTF-16 order would differ in the last two).
DOCIDS = st.sampled_from(["a", "Z", "ab", "é", "文", "｡", "😀", "d1", "d10", "d2", '"q"', "a\u0301"])
QIDS = st.sampled_from(["q1", "q2", "q10", "ü"])
RUNS = st.dictionaries(QIDS, st.dictionaries(DOCIDS, SCORES, min_size=1), max_size=4)
GRADES = st.dictionaries(DOCIDS, st.sampled_from([-2, -1, 0, 0, 1, 2, 3, 7]), min_size=1)
JUDGEMENTS = st.dictionaries(QIDS, GRADES, min_size=1)
# pytrec_eval 0.5.11 reads out of bounds (and may crash) on a query whose judgements are all negative.
SAFE_JUDGEMENTS = st.dictionaries(QIDS, GRADES.filter(lambda grades: max(grades.values()) >= 0), min_size=1)


def frames(run: Run, qrels: Qrels) -> tuple[pl.DataFrame, pl.DataFrame]:
    scored = [(qid, docid, score) for qid, ranking in run.items() for docid, score in ranking.items()]
    judged = [(qid, docid, grade) for qid, grades in qrels.items() for docid, grade in grades.items()]
    as_double = pl.Schema({"qid": pl.String, "docid": pl.String, "score": pl.Float64})
    return (
        pl.DataFrame(scored, schema=as_double, orient="row").cast({"score": pl.Float32}),
        pl.DataFrame(judged, schema=dict(QRELS), orient="row"),
    )


def by_query(figures: pl.DataFrame) -> dict[str, dict[str, float]]:
    return {row.pop("qid"): row for row in figures.to_dicts()}


def float32(score: float) -> float:
    try:
        return float(struct.unpack("f", struct.pack("f", score))[0])
    except OverflowError:
        return math.inf if score > 0 else -math.inf


def grades_in_order(ranking: dict[str, float], grades: dict[str, int]) -> list[int | None]:
    order = sorted(ranking, key=lambda docid: (float32(ranking[docid]), docid.encode()), reverse=True)
    return [grades.get(docid) for docid in order]


def ndcg_exp_oracle(k: int) -> Oracle:
    def dcg(grades: list[int]) -> float:
        return math.fsum((2.0 ** max(grade, 0) - 1) / math.log2(i + 2) for i, grade in enumerate(grades[:k]))

    return lambda ranked, judged, top: dcg([g or 0 for g in ranked]) / dcg(sorted(judged, reverse=True))


def err_oracle(k: int) -> Oracle:
    def err(ranked: list[int | None], judged: list[int], top: int) -> float:
        total, arrive = 0.0, 1.0
        for i, grade in enumerate(ranked[:k]):
            stop = (2.0 ** max(grade or 0, 0) - 1) / 2.0**top
            total += arrive * stop / (i + 1)
            arrive *= 1 - stop
        return total

    return err


@settings(max_examples=300, deadline=None)
@given(run=RUNS, qrels=SAFE_JUDGEMENTS)
def test_equal_to_trec_eval(run: Run, qrels: Qrels) -> None:
    found = by_query(fill_blank(per_query(*frames(run, qrels), list(TREC_NAMES)), "zero"))
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(TREC_NAMES.values())).evaluate(run)
    assert list(found) == list(qrels)
    for qid, figures in found.items():
        for name, value in figures.items():
            expected = theirs[qid][TREC_NAMES[name]] if qid in run else 0.0
            assert value == pytest.approx(expected, abs=1e-9), (qid, name)


@settings(max_examples=150, deadline=None)
@given(run=RUNS, qrels=JUDGEMENTS)
def test_equal_to_the_oracles_where_trec_eval_has_none(run: Run, qrels: Qrels) -> None:
    oracles = {"ndcg_exp_cut_3": ndcg_exp_oracle(3), "err_3": err_oracle(3), "err_10": err_oracle(10)}
    top = max(0, *(grade for grades in qrels.values() for grade in grades.values()), 0)
    for qid, figures in by_query(per_query(*frames(run, qrels), [*oracles, "judged_3"])).items():
        judged = list(qrels[qid].values())
        ranked = grades_in_order(run.get(qid, {}), qrels[qid])
        assert figures["judged_3"] == pytest.approx(sum(grade is not None for grade in ranked[:3]) / 3)
        for name, oracle in oracles.items():
            if max(judged) > 0:
                assert figures[name] == pytest.approx(oracle(ranked, judged, top), abs=1e-9), (qid, name)
            else:
                assert figures[name] is None


@settings(max_examples=100, deadline=None)
@given(run=RUNS, qrels=JUDGEMENTS, order=st.randoms(use_true_random=False))
def test_bounded_and_blind_to_row_order(run: Run, qrels: Qrels, order: object) -> None:
    scored, judged = frames(run, qrels)
    figures = per_query(scored, judged, ALL)
    for column in ALL:
        assert figures[column].drop_nulls().is_between(0, 1 + 1e-12).all(), column
    rows = scored.rows()
    order.shuffle(rows)  # type: ignore[attr-defined]
    # Queries then stand in pieces, which takes the other way of grouping.
    shuffled = pl.DataFrame(rows, schema=scored.schema, orient="row")
    assert per_query(shuffled, judged, ALL).equals(figures)


@settings(max_examples=100, deadline=None)
@given(qrels=JUDGEMENTS)
def test_the_ideal_ranking_scores_one(qrels: Qrels) -> None:
    ideal = {qid: {docid: float(max(grade, 0)) for docid, grade in grades.items()} for qid, grades in qrels.items()}
    names = ["ndcg_cut_3", "ndcg_exp_cut_3", "map", "recip_rank", "success_1", "recall_100"]
    figures = per_query(*frames(ideal, qrels), names).select(names)
    for row in figures.rows():
        assert row == pytest.approx([1.0] * len(names)) or row == (None,) * len(names)


def test_ndcg_by_hand() -> None:
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    qrels = {"q": {"a": 1, "c": 2, "never retrieved": 1}}
    figures = per_query(*frames(run, qrels), ["ndcg_cut_2", "ndcg_exp_cut_2", "err_3", "recall_2"]).row(0, named=True)
    assert figures["ndcg_cut_2"] == pytest.approx(1 / (2 + 1 / math.log2(3)))
    assert figures["ndcg_exp_cut_2"] == pytest.approx(1 / (3 + 1 / math.log2(3)))
    # R = 1/4, 0, 3/4 under a top grade of 2.
    assert figures["err_3"] == pytest.approx(1 / 4 + (3 / 4) * (3 / 4) / 3)
    assert figures["recall_2"] == pytest.approx(1 / 3)


BLANKS: tuple[Run, Qrels] = (
    {"good": {"a": 1.0}, "blank": {"a": 1.0}, "unjudged": {"a": 1.0}},
    {"good": {"a": 1, "b": 0}, "absent": {"a": 1}, "blank": {"a": 0, "b": -1}},
)


@pytest.mark.parametrize(("blank", "expected"), [("zero", 1 / 3), ("one", 2 / 3), ("skip", 1 / 2)])
def test_blank_policy(blank: str, expected: float) -> None:
    means = evaluate(*frames(*BLANKS), ["ndcg_cut_10", "recip_rank", "precision_1"], blank)  # type: ignore[arg-type]
    assert means == pytest.approx({"ndcg_cut_10": expected, "recip_rank": expected, "precision_1": expected})


def test_judged_is_defined_for_a_query_with_nothing_relevant() -> None:
    assert evaluate(*frames(*BLANKS), ["judged_1"], "one") == pytest.approx({"judged_1": 2 / 3})


def test_absent_queries_stay_and_unjudged_ones_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        figures = per_query(*frames(*BLANKS), ["map"])
    assert figures.rows() == [("good", 1.0), ("absent", 0.0), ("blank", None)]
    assert [record.getMessage() for record in caplog.records] == [
        "1 queries of the run have no judgements and are left out"
    ]


def test_an_empty_run_counts_zero_everywhere() -> None:
    _, qrels = frames({}, {"q": {"a": 1}})
    assert set(evaluate(pl.DataFrame(schema=dict(SCORED)), qrels, ALL).values()) == {0.0}


@pytest.mark.parametrize(
    "name", ["ndcg@10", "ndcg_cut_0", "ndcg_cut", "precision_-1", "recall_1.5", "map_10", "", "P_5"]
)
def test_unknown_metric_names_the_known(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown metric .*ndcg_cut_K.*judged_K.*recip_rank, map"):
        per_query(*frames(*BLANKS), [name])


@pytest.mark.parametrize(
    ("run", "qrels", "complaint"),
    [
        ([("q", "d", math.nan)], [("q", "d", 1)], "query 'q', document 'd' is NaN"),
        ([("q", "d", 1.0), ("q", "d", 2.0)], [("q", "d", 1)], "the run ranks document 'd' twice for query 'q'"),
        ([("q", "d", 1.0)], [("q", "d", 1), ("q", "d", 0)], "the qrels judge document 'd' twice for query 'q'"),
        ([("q", "d", 1.0)], [], "no judgement"),
        ([("q", "d", 1.0)], [("q", "d", 51)], "relevance of at most 50, found 51"),
        ([("q", None, 1.0)], [("q", "d", 1)], "column docid has 1 null"),
    ],
)
def test_refused(run: list[object], qrels: list[object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        per_query(
            pl.DataFrame(run, schema=dict(SCORED), orient="row"),
            pl.DataFrame(qrels, schema=dict(QRELS), orient="row"),
            ["ndcg_exp_cut_10"],
        )


def test_no_metric_and_unknown_blank_are_refused() -> None:
    with pytest.raises(InputError, match="name at least one"):
        per_query(*frames(*BLANKS), [])
    with pytest.raises(InputError, match=r"unknown blank policy 'two'; known: zero, one, skip"):
        evaluate(*frames(*BLANKS), ["map"], "two")  # type: ignore[arg-type]


def test_skip_that_leaves_nothing_is_refused() -> None:
    figures = per_query(*frames({"q": {"a": 1.0}}, {"q": {"a": 0}}), ["map"])
    assert mean(figures, "zero") == {"map": 0.0}
    with pytest.raises(InputError, match="leaves nothing to average"):
        mean(figures, "skip")


def test_a_thousand_documents_of_one_score() -> None:
    """A constant model must not gain from the order of the rows: every document ties at the cutoff."""
    docids = [f"d{i:04d}" for i in range(1000)]
    run = {"q": dict.fromkeys(docids, 1.0)}
    last = {"q": {"d0999": 1, "d0000": 1}}
    figures = per_query(*frames(run, last), ["ndcg_cut_10", "recip_rank", "recall_999"]).row(0, named=True)
    assert figures["ndcg_cut_10"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert figures["recip_rank"] == 1.0
    assert figures["recall_999"] == 0.5
