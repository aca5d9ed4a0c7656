"""The main job end to end on a few hundred documents of this Python's own documentation."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline import jobs
from pipeline.config import Settings
from pipeline.jobs import RunResult
from pipeline.searcher import Searcher
from retrieval.errors import InputError, IntegrityError

LIMIT = 300
QUICK = Settings(rankers=("pointwise", "ranknet", "lambdamart"), depth=100, candidates=30)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path) -> RunResult:
    return jobs.run("pydocs", home=home, settings=QUICK, limit=LIMIT)


@pytest.fixture(scope="module")
def searcher(home: Path, first: RunResult) -> Searcher:
    return Searcher.open(home)


def write_beir(folder: Path, *, splits: dict[str, list[str]]) -> Path:
    """Twelve documents about one word each; a query asks for its word."""
    words = [
        "apple",
        "river",
        "engine",
        "violin",
        "glacier",
        "parrot",
        "copper",
        "orchid",
        "cathedral",
        "lantern",
        "harbor",
        "walnut",
    ]
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": f"d{n}", "title": word, "text": f"All that is known about the {word}."} for n, word in enumerate(words)
    ]
    queries = [{"_id": f"q{n}", "text": f"tell me of the {word}"} for n, word in enumerate(words)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, qids in splits.items():
        rows = [f"{qid}\td{qid[1:]}\t1" for qid in qids]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folder


def test_the_leaderboard_holds_every_system_in_order_of_the_path(first: RunResult) -> None:
    board = first.leaderboard
    assert [(s.name, s.stage) for s in board.systems] == [
        ("bm25", "retrieve"),
        ("dense", "retrieve"),
        ("fused", "fuse"),
        ("pointwise", "rank"),
        ("ranknet", "rank"),
        ("lambdamart", "rank"),
    ]
    for system in board.systems:
        assert 0.3 < system.metrics["ndcg_cut_10"] < 0.99, system.name
        assert system.ci95[0] <= system.metrics["ndcg_cut_10"] <= system.ci95[1]
        assert system.metrics["recip_rank"] <= system.metrics["recall_100"] + 1e-9
        assert system.ms_per_query > 0
        assert system.per_query["test"]["qid"].to_list() == board.systems[0].per_query["test"]["qid"].to_list()
    assert set(board.versus) == {s.name for s in board.systems} - {board.baseline}
    best = max(board.systems, key=lambda s: s.per_query["valid"]["ndcg_cut_10"].mean())
    assert board.system(board.selected).per_query["valid"]["ndcg_cut_10"].mean() == pytest.approx(
        best.per_query["valid"]["ndcg_cut_10"].mean()
    )
    json.dumps(board.as_json(), allow_nan=False)


def test_an_unchanged_rerun_computes_nothing_and_changes_nothing(
    home: Path, first: RunResult, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pipeline.stages"):
        again = jobs.run("pydocs", home=home, settings=QUICK, limit=LIMIT)
    assert not [message for message in caplog.messages if "made in" in message]
    assert again.leaderboard.as_json() == first.leaderboard.as_json()
    assert again.promotion is not None
    assert again.promotion.status == "unchanged"
    assert again.bundle == first.bundle


def test_a_changed_setting_recomputes_what_follows_it_and_nothing_before(
    home: Path, first: RunResult, caplog: pytest.LogCaptureFixture
) -> None:
    changed = Settings(rankers=("pointwise",), depth=100, candidates=20)
    with caplog.at_level(logging.INFO, "pipeline.stages"):
        jobs.run("pydocs", home=home, settings=changed, limit=LIMIT)
    made = [message.split()[1].rstrip(":") for message in caplog.messages if "made in" in message]
    assert made == ["features", "rank-pointwise"]


def test_two_homes_publish_the_same_bundle(home: Path, first: RunResult, tmp_path: Path) -> None:
    # Encoding is the slow part, and checked elsewhere: the vectors come from the first home's cache.
    for kept in (home / "stages").glob("*-vectors-*"):
        shutil.copytree(kept, tmp_path / "stages" / kept.name)
    other = jobs.run("pydocs", home=tmp_path, settings=QUICK, limit=LIMIT)
    assert other.bundle.name == first.bundle.name


def test_online_search_ranks_as_the_batch_did(searcher: Searcher, first: RunResult) -> None:
    system = first.leaderboard.system(first.leaderboard.selected)
    assert searcher.system == system.name
    from retrieval.datasets import load

    dataset = load("pydocs", limit=LIMIT)
    asked = dataset.split_queries("test").head(20).select("qid", "query")
    found = searcher.search(asked, k=10)
    truth = dataset.qrels["test"]
    from retrieval.metrics import per_query

    online = per_query(found.select("qid", "docid", "score"), truth.join(asked, on="qid", how="semi"), ["ndcg_cut_10"])
    batch = system.per_query["test"].join(asked, on="qid", how="semi").select("qid", "ndcg_cut_10")
    assert online.sort("qid")["ndcg_cut_10"].to_list() == pytest.approx(
        batch.sort("qid")["ndcg_cut_10"].to_list(), abs=1e-6
    )


def test_contributions_sum_to_the_differences_between_scores(searcher: Searcher) -> None:
    found = searcher.search(pl.DataFrame({"qid": ["1"], "query": ["open a file for reading"]}), k=5, explain=True)
    sums = np.array([sum(part["contribution"] for part in row) for row in found["contributions"]])
    scores = found["score"].to_numpy()
    np.testing.assert_allclose(sums - sums[0], scores - scores[0], atol=2e-3)
    assert all(abs(row[0]["contribution"]) >= abs(row[-1]["contribution"]) for row in found["contributions"])


def test_k_beyond_the_corpus_gives_all_and_bad_k_and_queries_are_refused(
    searcher: Searcher, caplog: pytest.LogCaptureFixture
) -> None:
    one = pl.DataFrame({"qid": ["1"], "query": ["file"]})
    assert 30 < searcher.search(one, k=10_000).height <= LIMIT
    assert "k is 10000, the corpus holds" in caplog.text
    with pytest.raises(InputError, match="k must be at least 1; found 0"):
        searcher.search(one, k=0)
    for bad in ("", " \n", "x" * 1_000_000, "a\0b"):
        with pytest.raises(InputError, match="query 1: ") as refused:
            searcher.search(pl.DataFrame({"qid": ["1"], "query": [bad]}))
        assert len(str(refused.value)) < 200


@pytest.mark.parametrize("query", ["zzzzqqq", "学习", "???", "a", "🙂", "the of and"])
def test_odd_queries_are_answered(searcher: Searcher, query: str) -> None:
    found = searcher.search(pl.DataFrame({"qid": ["1"], "query": [query]}), k=3)
    assert found["rank"].to_list() == [1, 2, 3]


def test_an_altered_bundle_is_refused_and_the_message_says_what_to_do(home: Path, first: RunResult) -> None:
    victim = first.bundle / "dense" / "vectors.faiss"
    whole = victim.read_bytes()
    try:
        victim.write_bytes(whole[:-1])
        with pytest.raises(IntegrityError, match=r"vectors\.faiss.*cascade run"):
            jobs.search("file", home=home)
    finally:
        victim.write_bytes(whole)
    assert jobs.search("file", home=home, k=1).height == 1


def test_a_damaged_champion_is_published_anew_once(
    home: Path, first: RunResult, caplog: pytest.LogCaptureFixture
) -> None:
    victim = first.bundle / "fusion.json"
    whole = victim.read_bytes()
    try:
        victim.write_bytes(whole + b" ")
        anew = jobs.run("pydocs", home=home, settings=QUICK, limit=LIMIT).bundle
        assert "the champion's bundle cannot be used" in caplog.text
        assert anew != first.bundle
        caplog.clear()
        assert jobs.run("pydocs", home=home, settings=QUICK, limit=LIMIT).bundle == anew
        assert "cannot be used" not in caplog.text
    finally:
        victim.write_bytes(whole)


def test_without_a_train_split_learned_stages_are_skipped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_beir(tmp_path / "data", splits={"test": [f"q{n}" for n in range(12)]})
    result = jobs.run(data, home=tmp_path / "home")
    assert [system.name for system in result.leaderboard.systems] == ["bm25", "dense", "fused"]
    assert result.leaderboard.selected == "fused"
    assert result.leaderboard.system("fused").metrics["ndcg_cut_10"] > 0.9
    assert "no train split: the learned rankers are skipped" in caplog.text
    found = jobs.search("a word on the violin", home=tmp_path / "home", k=2)
    assert found["docid"][0] == "d3"
    with pytest.raises(InputError, match="has no features to explain"):
        jobs.search("violin", home=tmp_path / "home", explain=True)


def test_a_train_split_that_teaches_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_beir(tmp_path / "data", splits={"train": ["q0"], "test": [f"q{n}" for n in range(1, 12)]})
    board = jobs.run(data, home=tmp_path / "home").leaderboard
    assert [system.name for system in board.systems] == ["bm25", "dense", "fused"]
    assert "no validation split: the learned rankers are skipped" in caplog.text


def test_folds_judge_rankers_where_there_is_no_train_split(tmp_path: Path) -> None:
    data = write_beir(tmp_path / "data", splits={"test": [f"q{n}" for n in range(12)]})
    settings = Settings(rankers=("pointwise",), folds=3)
    board = jobs.run(data, home=tmp_path / "home", settings=settings).leaderboard
    assert board.system("pointwise").per_query["test"].height == 12
    assert "valid" not in board.system("pointwise").per_query
    assert board.selected == "fused"


def test_a_corpus_of_one_document_is_ranked_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_beir(tmp_path / "data", splits={"test": ["q0"]})
    lines = (data / "corpus.jsonl").read_text().splitlines()
    (data / "corpus.jsonl").write_text(lines[0] + "\n")
    result = jobs.run(data, home=tmp_path / "home")
    assert result.leaderboard.system("fused").metrics["ndcg_cut_10"] == 1
    assert "one document" in caplog.text


def test_settings_refuse_what_cannot_be() -> None:
    for values, words in (
        ({"depths": 3}, "unknown setting 'depths'; known: .*depth"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"rankers": ("magic",)}, "unknown ranker 'magic'; known: regression, logistic, lambdamart, .*and blend"),
        ({"depth": 10, "candidates": 20}, r"depth \(10\) must be at least candidates \(20\)"),
        ({"folds": 1}, "folds must be 0"),
    ):
        with pytest.raises(InputError, match=words):
            Settings.of(values)
