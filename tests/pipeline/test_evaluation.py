import json
import time
from dataclasses import replace
from io import StringIO
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline import evaluation_tables, query_kinds
from pipeline.comparable import feature_set, fingerprints_of, judged_by, tags_of
from pipeline.evaluation import DEFAULT_METRICS, averaged, compare, evaluate, judge
from retrieval import metrics as judging
from retrieval.errors import InputError
from retrieval.significance import bootstrap_ci, holm, randomisation_test

METRICS = ("ndcg_exp_cut_10", "ndcg_cut_10", "map")


def judged_queries(queries: int = 40, docs: int = 12, blanks: int = 6, seed: int = 0) -> pl.DataFrame:
    """QRELS: graded, `blanks` queries with nothing relevant."""
    rng = np.random.default_rng(seed)
    relevance = rng.choice([0, 1, 2], p=[0.7, 0.2, 0.1], size=(queries, docs))
    relevance[:, 0] = np.maximum(relevance[:, 0], 1)
    relevance[:blanks] = 0
    return pl.DataFrame(
        {
            "qid": [f"q{query:03d}" for query in range(queries) for _ in range(docs)],
            "docid": [f"d{doc:02d}" for _ in range(queries) for doc in range(docs)],
            "relevance": pl.Series(relevance.ravel(), dtype=pl.Int32),
        }
    )


def run_of(qrels: pl.DataFrame, noise: float, seed: int) -> pl.DataFrame:
    scores = qrels["relevance"].to_numpy() + np.random.default_rng(seed).normal(0, noise, qrels.height)
    return qrels.select("qid", "docid", score=pl.Series(scores, dtype=pl.Float32))


QRELS = judged_queries()
RUNS = {
    name: run_of(QRELS, noise, seed)
    for seed, (name, noise) in enumerate({"good": 0.4, "fair": 1.0, "poor": 3.0}.items())
}


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(RUNS, QRELS, metrics=METRICS, blank="one")


@pytest.mark.parametrize("blank", ["zero", "one", "skip"])
def test_means_and_intervals_are_those_of_the_metrics_room(blank):
    found = evaluate(RUNS, QRELS, metrics=METRICS, blank=blank)
    for name, run in RUNS.items():
        raw = judging.per_query(run, QRELS, METRICS)
        for metric in METRICS:
            value = found.system(name).metrics[metric]
            for policy in ("zero", "one", "skip"):
                assert getattr(value, policy) == pytest.approx(judging.mean(raw, policy)[metric], abs=1e-12)
            filled = judging.fill_blank(raw, blank)[metric].drop_nulls()
            assert value.ci95 == pytest.approx(bootstrap_ci(filled), abs=1e-12)
    assert (found.queries, found.blank_queries, found.judged) == (40, 6, 34 if blank == "skip" else 40)


def test_pairs_are_the_tests_of_each_pair_holm_corrected_over_all(evaluation):
    assert [system.name for system in evaluation.systems] == ["good", "fair", "poor"]
    figures = {
        name: judging.fill_blank(judging.per_query(run, QRELS, METRICS[:1]), "one")[METRICS[0]].to_numpy()
        for name, run in RUNS.items()
    }
    raw = []
    for one, other in combinations(["good", "fair", "poor"], 2):
        pair = evaluation.pair(other, one)
        difference = figures[one] - figures[other]
        assert (pair.one, pair.other) == (one, other)
        assert pair.difference == pytest.approx(difference.mean())
        assert pair.ci95 == pytest.approx(bootstrap_ci(difference), abs=1e-12)
        assert pair.p_value == pytest.approx(randomisation_test(difference), abs=0.01)
        assert (pair.wins, pair.losses) == ((difference > 1e-9).sum(), (difference < -1e-9).sum())
        assert pair.wins + pair.losses + pair.ties == 40
        raw.append(pair.p_value)
    assert [pair.p_holm for pair in evaluation.pairs] == pytest.approx(holm(raw))


def test_ranks_cliques_and_the_curve(evaluation):
    ranks = [system.mean_rank for system in evaluation.systems]
    assert sum(ranks) == pytest.approx(6)
    assert ranks == sorted(ranks)
    assert evaluation.friedman.p_value < 0.01
    # All three differ by far, so that no bar joins any two.
    assert all(pair.p_holm < 0.05 for pair in evaluation.pairs)
    assert evaluation.cliques == []
    curve = evaluation.system("fair").ndcg_by_k
    # Twelve documents a query: from 20 on the curve is flat, and stops.
    assert list(curve) == [1, 2, 3, 5, 10, 20]
    means = judging.evaluate(RUNS["fair"], QRELS, ["ndcg_exp_cut_3"], "one")
    mean, low, high = curve[3]
    assert mean == pytest.approx(means["ndcg_exp_cut_3"])
    assert low < mean < high


def test_systems_that_rank_alike_are_one_clique_and_one_system_is_enough():
    twins = evaluate({"a": RUNS["fair"], "b": RUNS["fair"], "c": RUNS["poor"]}, QRELS, metrics=METRICS)
    assert [sorted(clique) for clique in twins.cliques] == [["a", "b"]]
    pair = twins.pair("a", "b")
    assert (pair.difference, pair.p_value, pair.p_holm, pair.ties) == (0, 1, 1, 40)
    alone = evaluate({"a": RUNS["fair"]}, QRELS, metrics=METRICS)
    assert (alone.pairs, alone.friedman, alone.cliques) == ([], None, [])
    assert alone.system("a").mean_rank == 1


@settings(deadline=None, max_examples=20)
@given(st.permutations(["good", "fair", "poor"]), st.integers(0, 100))
def test_the_order_of_systems_and_rows_changes_nothing(order, seed):
    shuffled = {name: RUNS[name].sample(fraction=1, shuffle=True, seed=seed) for name in order}
    one = evaluate(RUNS, QRELS, metrics=METRICS[:1])
    other = evaluate(shuffled, QRELS, metrics=METRICS[:1])
    assert one.as_json() == other.as_json()


def test_json_holds_everything_and_is_strict(evaluation):
    loaded = json.loads(json.dumps(evaluation.as_json(), allow_nan=False))
    assert (loaded["metric"], loaded["blank"], loaded["blank_queries"]) == ("ndcg_exp_cut_10", "one", 6)
    good = loaded["systems"][0]
    assert set(good["metrics"]["map"]) == {"zero", "one", "skip", "ci95"}
    assert good["metrics"]["map"]["one"] - good["metrics"]["map"]["zero"] == pytest.approx(6 / 40)
    assert len(loaded["pairs"]) == 3
    assert {group["kind"] for group in loaded["groups"]} == {"relevant"}


def test_all_queries_blank_has_no_skip_mean_and_says_so_where_it_decides():
    blank = QRELS.with_columns(relevance=pl.lit(0, pl.Int32))
    found = evaluate({"a": RUNS["fair"]}, blank, metrics=METRICS, blank="one")
    assert found.system("a").metrics["map"].skip is None
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["systems"][0]["metrics"]["map"]["skip"] is None
    with pytest.raises(InputError, match="blank='skip' leaves nothing"):
        evaluate({"a": RUNS["fair"]}, blank, metrics=METRICS, blank="skip")


def test_a_metric_that_is_defined_for_blank_queries_keeps_them_under_skip():
    found = evaluate(RUNS, QRELS, metrics=("ndcg_cut_10", "judged_10"), blank="skip")
    value = found.system("poor").metrics["judged_10"]
    assert value.zero == value.one == value.skip == pytest.approx(1.0)


def test_by_kind_each_group_is_judged_by_itself():
    texts = ["what is a lens", "lens", "how do planes fly in a storm at night over the sea"]
    queries = pl.DataFrame(
        {
            "qid": QRELS["qid"].unique().sort(),
            "query": [texts[number % 3] for number in range(40)],
            "topic": [number % 2 for number in range(40)],
        }
    )
    found = evaluate(
        RUNS, QRELS, metrics=METRICS, queries=queries, kinds=["length", "form", "topic", "relevant"], blank="zero"
    )
    sizes = {(group.kind, group.group): group.queries for group in found.groups}
    assert sizes[("length", "1 word")] == 13
    assert sizes[("length", "4–6 words")] == 14
    assert sizes[("length", "11 or more words")] == 13
    assert (sizes[("form", "question")], sizes[("form", "keywords")]) == (27, 13)
    assert (sizes[("topic", "0")], sizes[("topic", "1")]) == (20, 20)
    assert sizes[("relevant", "none relevant")] == 6
    for kind in ("length", "form", "topic", "relevant"):
        assert sum(size for (of, _), size in sizes.items() if of == kind) == 40
    some = queries.filter(pl.col("topic") == 1)
    means = judging.evaluate(RUNS["fair"], QRELS.join(some, on="qid", how="semi"), METRICS[:1], "zero")
    [group] = [group for group in found.groups if (group.kind, group.group) == ("topic", "1")]
    assert group.means["fair"] == pytest.approx(means[METRICS[0]])
    skipped = evaluate(RUNS, QRELS, metrics=METRICS, blank="skip")
    assert "none relevant" not in {group.group for group in skipped.groups}


def test_unknown_and_unusable_kinds_are_named():
    queries = pl.DataFrame({"qid": QRELS["qid"].unique().sort(), "query": "x", "serial": [str(n) for n in range(40)]})
    with pytest.raises(InputError, match="unknown kind of query 'topic'; known here: length, form, relevant, serial"):
        evaluate(RUNS, QRELS, queries=queries, kinds=["topic"])
    with pytest.raises(InputError, match="'serial': has 40 different values; at most 20"):
        evaluate(RUNS, QRELS, queries=queries, kinds=["serial"])
    with pytest.raises(InputError, match="1 judged queries are not there, such as 'q039'"):
        evaluate(RUNS, QRELS, queries=queries.head(39))
    with pytest.raises(InputError, match="known here: none"):
        query_kinds.groups(pl.Series(["a"]), kinds=["length"])


def test_what_a_run_does_not_answer_counts_zero_and_is_noted():
    half = RUNS["good"].filter(pl.col("qid") < "q020")
    found = evaluate({"good": RUNS["good"], "half": half}, QRELS, metrics=METRICS)
    assert found.system("half").answered == 20
    assert found.system("half").metrics["map"].zero < found.system("good").metrics["map"].zero
    assert any("half answers 20 of 40 queries" in note for note in found.notes)
    with pytest.raises(InputError, match="run alien: answers none of the 40 judged queries"):
        evaluate({"alien": half.with_columns(qid=pl.lit("other"))}, QRELS)


def test_other_candidates_and_features_are_labelled_not_refused():
    fewer = RUNS["fair"].filter(pl.col("docid") != "d03")
    features = {"good": ["a", "b"], "fair": ["b", "a"], "other": ["a"], "same": ["a"]}
    runs = {"good": RUNS["good"], "fair": fewer, "other": fewer, "same": RUNS["poor"], "plain": RUNS["poor"]}
    found = evaluate(runs, QRELS, metrics=METRICS, features=features)
    labels = {system.name: system.label for system in found.systems}
    assert labels == {"good": "A1", "fair": "B1", "other": "B2", "same": "A2", "plain": "A"}
    assert found.system("good").shown == "good (A1)"
    assert len([note for note in found.notes if "different" in note]) == 2
    assert {row["name"]: row["label"] for row in found.as_json()["systems"]} == labels
    alike = evaluate(RUNS, QRELS, metrics=METRICS, features={name: ["a", "b"] for name in RUNS})
    assert {system.label for system in alike.systems} == {""}
    assert list(alike.notes) == []


def test_other_queries_qrels_or_splits_are_refused_by_name():
    ours = judge(RUNS, QRELS, metrics=METRICS)["good"]
    fewer = judge(RUNS, QRELS.filter(pl.col("qid") != "q001"), metrics=METRICS)["fair"]
    regraded = judge(RUNS, QRELS.with_columns(pl.col("relevance").clip(upper_bound=1)), metrics=METRICS)["fair"]
    elsewhere = judge(RUNS, QRELS, metrics=METRICS, split="valid")["fair"]
    for other, why in ((fewer, "different queries"), (regraded, "different qrels"), (elsewhere, "split 'test' and on")):
        with pytest.raises(InputError, match=f"good and fair do not compare: .*{why}"):
            compare({"good": ours, "fair": other}, metrics=METRICS)
    with pytest.raises(InputError, match="nothing to evaluate"):
        compare({}, metrics=METRICS)


def test_other_texts_of_the_queries_are_refused_only_where_both_are_known():
    asked = pl.DataFrame({"qid": QRELS["qid"].unique().sort(), "query": "a lens"})
    ours = judge(RUNS, QRELS, metrics=METRICS, queries=asked)["good"]
    theirs = judge(RUNS, QRELS, metrics=METRICS, queries=asked.with_columns(query=pl.lit("lenses")))["fair"]
    unknown = judge(RUNS, QRELS, metrics=METRICS)["fair"]
    with pytest.raises(InputError, match="different queries"):
        compare({"good": ours, "fair": theirs}, metrics=METRICS)
    assert compare({"good": ours, "fair": unknown}, metrics=METRICS).queries == 40


def test_figures_without_a_metric_or_with_other_blanks_are_named():
    ours = judge(RUNS, QRELS, metrics=METRICS)
    with pytest.raises(InputError, match="good: has no figures a query of recall_5; it has ndcg_exp_cut_10"):
        compare(ours, metrics=("recall_5",))
    forged = replace(
        ours["fair"], per_query=ours["fair"].per_query.with_columns(pl.col("ndcg_exp_cut_10").fill_null(0))
    )
    with pytest.raises(InputError, match="good and fair were judged by different qrels"):
        compare({"good": ours["good"], "fair": forged}, metrics=METRICS)
    with pytest.raises(InputError, match="unknown blank policy"):
        evaluate(RUNS, QRELS, blank="none")
    with pytest.raises(InputError, match="no metric"):
        evaluate(RUNS, QRELS, metrics=())


def test_fingerprints_know_content_and_not_order():
    prints = fingerprints_of(QRELS)
    assert prints == fingerprints_of(QRELS.sample(fraction=1, shuffle=True, seed=3))
    regraded = fingerprints_of(QRELS.with_columns(relevance=pl.col("relevance") + 1))
    assert regraded.qrels != prints.qrels
    assert regraded.queries == prints.queries
    assert feature_set(["a", "b"]) == feature_set(["b", "a"]) != feature_set(["ab"])


def test_what_a_run_keeps_is_enough_to_compare_again():
    judged = judge(RUNS, QRELS, metrics=METRICS, features={"good": ["a"]})
    again = {name: judged_by(tags_of(system), system.per_query) for name, system in judged.items()}
    assert again == judged
    assert judged_by({"cascade.split": "test"}, judged["good"].per_query) is None


def test_seeds_are_averaged_query_by_query():
    judged = judge({f"seed {seed}": run_of(QRELS, 1.0, seed) for seed in range(3)}, QRELS, metrics=METRICS)
    mean = averaged(judged)
    stacked = np.stack([system.per_query["map"].to_numpy() for system in judged.values()])
    assert np.allclose(mean.per_query["map"].to_numpy(), stacked.mean(axis=0), equal_nan=True)
    assert mean.per_query["map"].null_count() == 6
    one = judged["seed 0"]
    assert (mean.fingerprints, mean.candidates, mean.answered) == (one.fingerprints, one.candidates, 40)
    together = compare({"mean": mean, "one": one}, metrics=METRICS)
    assert together.system("mean").metrics["map"].zero == pytest.approx(np.nan_to_num(stacked).mean())
    with pytest.raises(InputError, match="do not compare"):
        averaged({"a": one, "b": replace(one, split="valid")})
    fewer = replace(one, candidates="other")
    assert (averaged({"a": one, "b": fewer}).candidates, averaged({"a": one, "b": fewer}).answered) == (None, None)


def drawn(*tables) -> str:
    console = Console(width=80, file=StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("systems", [1, 2, 5, 30])
def test_tables_fit_eighty_columns_whole(systems):
    long = "lambdamart-with-truncation-30-and-a-context-aware-self-attention-scorer"
    runs = {
        f"{long}-{number}" if number % 3 == 0 else f"s{number}": run_of(QRELS, 1 + number / 9, number)
        for number in range(systems)
    }
    runs[f"{long}-0"] = runs[f"{long}-0"].filter(pl.col("docid") != "d03")
    e = evaluate(runs, QRELS, metrics=DEFAULT_METRICS)
    shown = drawn(
        evaluation_tables.systems_table(e, dataset="mq2008"),
        evaluation_tables.conventions_table(e, dataset="mq2008"),
        evaluation_tables.pairs_table(e),
        evaluation_tables.groups_table(e),
    )
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown.replace("A, B, …", "").replace("1, 2, …", "")
    best = e.systems[0]
    assert f"{best.metrics['ndcg_cut_10'].zero:.4f}" in shown
    assert "6 with nothing relevant" in shown
    for pair in e.pairs[:1]:
        assert f"{pair.wins}/{pair.ties}/{pair.losses}" in shown
    if systems == 30:
        assert "the best against each other of all 435 pairs" in " ".join(shown.split())


def test_frames_hold_a_row_a_system_a_pair_and_a_group(evaluation):
    systems = evaluation_tables.systems_frame(evaluation)
    assert systems["system"].to_list() == ["good", "fair", "poor"]
    assert systems["map.one"][0] == evaluation.system("good").metrics["map"].one
    assert evaluation_tables.pairs_frame(evaluation).height == 3
    groups = evaluation_tables.groups_frame(evaluation)
    assert groups.height == 3 * len(evaluation.groups)


def test_thirty_systems_on_eight_hundred_queries_take_seconds():
    qrels = judged_queries(800, 20, 220)
    runs = {f"s{number}": run_of(qrels, 2 - number / 50, number) for number in range(30)}
    start = time.perf_counter()
    found = evaluate(runs, qrels, blank="one")
    seconds = time.perf_counter() - start
    assert len(found.pairs) == 435
    # 3 s on two cores that do nothing else; the rest is for a machine that is shared.
    assert seconds < 30
