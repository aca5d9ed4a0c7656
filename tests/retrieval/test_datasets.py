import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import splits
from retrieval.datasets import Dataset, assemble, load
from retrieval.errors import InputError
from retrieval.frames import QRELS, QUERIES
from retrieval.queries import QUERY_LIMIT, check_queries, check_query

WORDS = ["read", "write", "zip", "file", "open", "the", "a"]


def docs_frame(n: int) -> pl.DataFrame:
    return pl.DataFrame({"docid": [f"d{i}" for i in range(n)], "title": "", "text": [f"text {i}" for i in range(n)]})


def queries_frame(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"qid": [f"q{i}" for i in range(len(texts))], "query": texts}, schema=QUERIES)


def qrels_frame(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=QRELS, orient="row")


def small(n_queries: int = 30, n_docs: int = 60) -> Dataset:
    rng = random.Random(7)
    judged = {"train": [], "test": []}
    for i in range(n_queries):
        for docid in rng.sample(range(n_docs), rng.randint(1, 4)):
            judged["train" if i % 3 else "test"].append((f"q{i}", f"d{docid}", rng.randint(0, 2)))
    queries = queries_frame([f"question {i}" for i in range(n_queries)])
    return assemble("small", docs_frame(n_docs), queries, {k: qrels_frame(*v) for k, v in judged.items()}, where="w")


query_texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=40)


@given(query_texts, st.randoms(use_true_random=False), st.integers(0, 5))
def test_the_cut_is_by_query_stable_and_never_across(texts: list[str], rng: random.Random, seed: int) -> None:
    texts = [text.upper() + "?" if rng.random() < 0.3 else text for text in texts]
    queries = queries_frame(texts)
    judged = qrels_frame(*[(f"q{i}", f"d{i}-{j}", 1) for i in range(len(texts)) for j in range(i % 3 + 1)])
    train, valid = splits.cut_validation(judged, queries, seed=seed)
    assert sorted([*train.rows(), *valid.rows()]) == sorted(judged.rows())
    side = dict.fromkeys(train["qid"], 0) | dict.fromkeys(valid["qid"], 1)
    assert not set(train["qid"]) & set(valid["qid"])
    for i, one in enumerate(texts):
        for j, two in enumerate(texts):
            if one.lower().strip("?") == two.lower().strip("?"):
                assert side[f"q{i}"] == side[f"q{j}"]
    assert train.height
    assert valid["qid"].n_unique() <= max(0.3 * len(texts), 1)
    shuffled = judged.sample(fraction=1, shuffle=True, seed=3), queries.sample(fraction=1, shuffle=True, seed=4)
    assert set(splits.cut_validation(*shuffled, seed=seed)[1].rows()) == set(valid.rows())


def test_the_cut_takes_a_fifth_and_depends_on_the_seed() -> None:
    queries = queries_frame([f"question number {i}" for i in range(1000)])
    judged = qrels_frame(*[(f"q{i}", f"d{i}", 1) for i in range(1000)])
    cuts = [splits.cut_validation(judged, queries, seed=seed)[1] for seed in (0, 1)]
    assert [cut.height for cut in cuts] == [200, 200]
    assert 20 <= len(set(cuts[0]["qid"]) & set(cuts[1]["qid"])) <= 60


def test_queries_that_share_a_relevant_document_are_not_cut_apart() -> None:
    queries = queries_frame([f"question number {i}" for i in range(300)])
    judged = qrels_frame(
        *[(f"q{i}", f"d{i // 3}", 1) for i in range(300)], *[(f"q{i}", "shared", 0) for i in range(300)]
    )
    train, valid = splits.cut_validation(judged, queries)
    relevant = [set(side.filter(pl.col("relevance") > 0)["docid"]) for side in (train, valid)]
    assert not relevant[0] & relevant[1]
    assert 55 <= valid["qid"].n_unique() <= 65


def test_where_one_document_ties_all_queries_the_texts_decide(caplog: pytest.LogCaptureFixture) -> None:
    queries = queries_frame([f"question number {i}" for i in range(100)])
    judged = qrels_frame(*[(f"q{i}", "d0", 1) for i in range(100)])
    assert splits.cut_validation(judged, queries)[1].height == 20
    assert "share too many relevant documents" in caplog.text


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8).map(" ".join), max_size=30), st.sampled_from([0.5, 0.8])
)
def test_near_duplicates_are_the_components_of_all_similar_pairs(texts: list[str], threshold: float) -> None:
    def similar(one: str, two: str) -> bool:
        a, b = set(one.split()), set(two.split())
        return a == b or len(a & b) / len(a | b) >= threshold

    expected = list(range(len(texts)))
    for _ in texts:
        for i, one in enumerate(texts):
            expected[i] = min(expected[j] for j, two in enumerate(texts) if similar(one, two))
    assert splits.near_duplicates(texts, threshold) == expected


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("Read the FILE.", "read  the\tfile", True),
        ("read_dir", "read dir", True),
        ("ﬁle", "file", True),
        ("Straße", "STRASSE", True),
        ("कि", "का", False),
        ("???", "!!!", False),
        ("c", "c d", False),
    ],
)
def test_normalised_texts(one: str, two: str, same: bool) -> None:
    assert (splits.normalised(one) == splits.normalised(two)) == same


def test_assignment_keeps_the_shares() -> None:
    counts = Counter(splits.assign([f"g{i}" for i in range(5000)], {"train": 0.6, "valid": 0.15, "test": 0.25}))
    assert counts["train"] / 5000 == pytest.approx(0.6, abs=0.03)
    assert counts["valid"] / 5000 == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize(
    ("names", "roles", "judged"),
    [
        (["train", "test"], {"train", "test"}, "test"),
        (["train", "dev", "test"], {"train", "valid", "test"}, "test"),
        (["validation", "test"], {"valid", "test"}, "test"),
        (["train", "dev"], {"train", "test"}, "dev"),
        (["val"], {"test"}, "val"),
    ],
)
def test_split_names(names: list[str], roles: set[str], judged: str) -> None:
    frames = {name: qrels_frame((f"q{i}", "d0", 1)) for i, name in enumerate(names)}
    resolved, name = splits.resolve(frames, "here")
    assert set(resolved) == roles
    assert name == judged
    assert resolved["test"].equals(frames[judged])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train"], "needs a test or dev split; found train"),
        (["dev", "val", "test"], "'dev' and 'val' are both the valid split"),
        (["eval"], "unknown split 'eval'; splits are named train, valid"),
        ([], "found none"),
    ],
)
def test_splits_that_cannot_be_resolved(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        splits.resolve({name: qrels_frame(("q0", "d0", 1)) for name in names}, "here")


def test_a_query_of_two_splits_stays_in_the_later_one(caplog: pytest.LogCaptureFixture) -> None:
    both = qrels_frame(("q0", "d0", 1), ("q1", "d0", 1))
    resolved, _ = splits.resolve({"train": both, "test": both.head(1)}, "here")
    assert resolved["train"]["qid"].to_list() == ["q1"]
    assert "here: dropped from train 1 queries" in caplog.text


def test_validation_is_cut_from_train_only_where_there_is_none() -> None:
    dataset = small()
    assert set(dataset.qrels) == {"train", "valid", "test"}
    assert dataset.split_queries("train").height == 16
    assert dataset.split_queries("valid").height == 4
    sets = [set(dataset.qrels[split]["qid"]) for split in dataset.qrels]
    assert sum(map(len, sets)) == len(set().union(*sets))


def test_strange_judgements_are_counted_and_carried_on(caplog: pytest.LogCaptureFixture) -> None:
    judged = qrels_frame(("q0", "d0", 1), ("q0", "gone", 1), ("nobody", "d0", 1), ("nobody", "d1", 1))
    with caplog.at_level(logging.WARNING):
        dataset = assemble("x", docs_frame(1), queries_frame(["a", "b"]), {"test": judged}, where="qrels.tsv")
    assert dataset.qrels["test"].rows() == [("q0", "d0", 1), ("q0", "gone", 1)]
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "qrels.tsv: dropped 2 judgements of queries that are not there",
        "qrels.tsv: 1 judgements are of documents that are not in the corpus",
        "qrels.tsv: 1 queries have no judgements",
        "x: a corpus of one document: every ranking of it is the same",
    ]


def test_judgements_of_no_known_query_are_refused() -> None:
    with pytest.raises(InputError, match=r"q\.tsv: the test split judges none of the queries"):
        assemble("x", docs_frame(1), queries_frame(["a"]), {"test": qrels_frame(("Q0", "d0", 1))}, where="q.tsv")


def shuffled(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    return frame.sample(fraction=1, shuffle=True, seed=seed).select(reversed(frame.columns))


def test_the_fingerprint_is_of_the_content_in_any_order() -> None:
    dataset = small()
    again = Dataset(
        name="other",
        docs=shuffled(dataset.docs, 1),
        queries=shuffled(dataset.queries, 2),
        qrels={split: shuffled(frame, 3) for split, frame in reversed(dataset.qrels.items())},
    )
    assert again.fingerprint == dataset.fingerprint
    assert len(dataset.fingerprint) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda d: replace(d, docs=d.docs.with_columns(text=pl.col("text").str.replace("text 7$", "text 7 "))),
        lambda d: replace(d, docs=d.docs.with_columns(title=pl.col("text"), text=pl.col("title"))),
        lambda d: replace(d, docs=d.docs.with_columns(year=pl.lit(None, pl.Int64))),
        lambda d: replace(d, docs=d.docs.head(-1)),
        lambda d: replace(d, queries=d.queries.with_columns(pl.col("query").str.to_uppercase())),
        lambda d: replace(d, qrels={**d.qrels, "test": d.qrels["test"].with_columns(pl.col("relevance") + 1)}),
        lambda d: replace(d, qrels={"train": d.qrels["train"], "test": d.qrels["test"]}),
        lambda d: replace(d, qrels={**d.qrels, "test": d.qrels["valid"], "valid": d.qrels["test"]}),
    ],
)
def test_the_fingerprint_sees_every_change(change: Callable[[Dataset], Dataset]) -> None:
    dataset = small()
    assert change(dataset).fingerprint != dataset.fingerprint


def test_the_fingerprint_does_not_run_texts_together() -> None:
    def of(*texts: str | None) -> str:
        docs = docs_frame(2).with_columns(note=pl.Series(texts, dtype=pl.String))
        qrels = {"test": qrels_frame(("q0", "d0", 1))}
        return Dataset(name="x", docs=docs, queries=queries_frame(["a"]), qrels=qrels).fingerprint

    assert len({of("ab", "c"), of("a", "bc"), of("abc", ""), of("abc", None)}) == 4


@settings(max_examples=40)
@given(st.integers(1, 70))
def test_a_first_look_keeps_whole_queries(n: int) -> None:
    dataset = small()
    try:
        look = dataset.limit(n)
    except InputError as error:
        assert n < 5
        assert "no test query of small" in str(error)  # noqa: PT017
        return
    assert look.docs.height == min(n, dataset.docs.height)
    there = set(look.docs["docid"])
    if n < dataset.docs.height:
        assert set(look.queries["qid"]) == set().union(*(frame["qid"] for frame in look.qrels.values()))
    for split, frame in look.qrels.items():
        kept = dataset.qrels[split].filter(pl.col("qid").is_in(frame["qid"].to_list()))
        assert set(kept.filter(pl.col("relevance") > 0)["docid"]) <= there
        assert set(frame.rows()) == {row for row in kept.rows() if row[1] in there}
    again = replace(dataset, docs=shuffled(dataset.docs, n).select(dataset.docs.columns)).limit(n)
    assert set(again.docs.rows()) == set(look.docs.rows())


def test_a_first_look_draws_from_every_split_alike() -> None:
    judged = qrels_frame(*[(f"q{i}", f"d{i}", 1) for i in range(2000)])
    queries = queries_frame([f"question number {i}" for i in range(2000)])
    frames = {"train": judged.head(1500), "test": judged.tail(500)}
    look = assemble("x", docs_frame(2000), queries, frames, where="w").limit(400)
    shares = {split: frame.height / 400 for split, frame in look.qrels.items()}
    assert shares == pytest.approx({"train": 0.6, "valid": 0.15, "test": 0.25}, abs=0.08)


def test_a_first_look_takes_as_many_queries_as_fit() -> None:
    big = [("q0", f"d{i}", 1) for i in range(5)]
    frame = qrels_frame(*big, ("q1", "d5", 1), ("q2", "d5", 1), ("q3", "d6", 1), ("q3", "d7", 0))
    dataset = assemble("x", docs_frame(20), queries_frame(list("abcd")), {"test": frame}, where="w")
    look = dataset.limit(3)
    assert look.queries["qid"].to_list() == ["q1", "q2", "q3"]
    assert set(look.docs["docid"]) == {"d5", "d6", "d7"}
    with pytest.raises(InputError, match="limit: must be at least 1 document, found 0"):
        dataset.limit(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; a query needs"),
        (" \t\n\u3000\x1f", "is empty; a query needs"),
        ("a" * (QUERY_LIMIT + 1), "has 8,193 characters; the limit is 8,192"),
        ("a" * 2**20, "has 1,048,576 characters; the limit is 8,192"),
        ("a\0b", "holds a NUL character"),
        ("ab\ud800", r"holds a lone surrogate \(character 3\)"),
    ],
)
def test_queries_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^line 3: {message}") as error:
        check_query(text, "line 3")
    assert len(str(error.value)) < 120
    assert "\n" not in str(error.value)


@given(st.lists(st.text(max_size=5), max_size=5))
def test_a_column_of_queries_is_checked_like_each_of_them(texts: list[str]) -> None:
    def refused(check: Callable[[], object]) -> str | None:
        try:
            check()
        except InputError as error:
            return str(error)
        return None

    one_by_one = next(
        (m for row, t in enumerate(texts) if (m := refused(lambda t=t, r=row: check_query(t, str(r))))), None
    )
    assert refused(lambda: check_queries(pl.Series(texts, dtype=pl.String), str)) == one_by_one


def test_the_longest_query_passes() -> None:
    assert check_query("é" * QUERY_LIMIT) == "é" * QUERY_LIMIT


def test_a_source_that_is_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "scifact").mkdir()
    with pytest.raises(InputError, match=r"no such data set, file or folder: give pydocs, .* did you mean .*scifact\?"):
        load(tmp_path / "sciafct")
    with pytest.raises(InputError, match=r"did you mean pydocs\?"):
        load("pydoc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": "q.jsonl"}, "the option queries goes with a corpus file"),
        ({"columns": {"docid": "id"}}, "the option columns goes with a corpus file"),
        ({"packages": True}, "the option packages goes with pydocs"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, **options)
