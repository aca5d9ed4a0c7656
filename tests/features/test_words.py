"""Every word feature against plain Python and against bm25s."""

import bm25s
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.assemble import STAGES, assemble
from features.registry import FEATURES
from retrieval.analysis import Analyzer
from retrieval.lexicon import Lexicon
from tests.features import naive

WORDS = ["ant", "bee", "cat", "dog", "elk"]
ELSEWHERE = ["xyz", "yak"]  # in queries only
# What sees words alone: the features over a field, and those of the query or the document that need no vector.
WORD_FEATURES = [name for name in FEATURES if name.rsplit("_", 1)[-1] in ("title", "text", "whole")] + list(naive.ALONE)


def lexicon_of(documents: list[tuple[list[str], list[str]]]) -> Lexicon:
    docs = pl.DataFrame(
        {
            "docid": [f"d{row}" for row in range(len(documents))],
            "title": [" ".join(title) for title, _ in documents],
            "text": [" ".join(text) for _, text in documents],
        }
    )
    return Lexicon.build(docs, Analyzer(language="none"))


def features_of(lexicon: Lexicon, queries: list[list[str]], names: list[str]) -> pl.DataFrame:
    """The features `names` of every query with every document."""
    asked = pl.DataFrame({"qid": [f"q{i}" for i in range(len(queries))], "query": [" ".join(q) for q in queries]})
    candidates = asked.select("qid").join(pl.DataFrame({"docid": lexicon.docids}), how="cross")
    unseen = {f"{stage}_score": pl.lit(None, pl.Float32) for stage in STAGES}
    unseen |= {f"{stage}_rank": pl.lit(None, pl.Int32) for stage in STAGES}
    return assemble(
        candidates.with_columns(**unseen),
        asked,
        lexicon=lexicon,
        query_vectors=None,
        document_vectors=None,
        names=names,
    )


def words(longest: int, of: list[str] = WORDS) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(of), max_size=longest)


@settings(max_examples=150, deadline=None)
@given(
    documents=st.lists(st.tuples(words(4), words(9)), min_size=1, max_size=4),
    queries=st.lists(words(6, WORDS + ELSEWHERE), min_size=1, max_size=3),
)
def test_word_features_are_those_of_plain_python(
    documents: list[tuple[list[str], list[str]]], queries: list[list[str]]
) -> None:
    corpus = naive.Corpus(documents)
    computed = features_of(lexicon_of(documents), queries, WORD_FEATURES)
    for name in WORD_FEATURES:
        expected = [naive.value(name, corpus, query, row) for query in queries for row in range(len(documents))]
        np.testing.assert_allclose(computed[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_oracle_covers_every_word_feature() -> None:
    beyond_words = ("cosine", "signal", "feedback", "centrality", "minmax", "zscore", "of_top", "stage")
    others = set(FEATURES) - set(WORD_FEATURES)
    assert [name for name in others if not any(part in name for part in beyond_words)] == []


def test_a_query_that_repeats_itself_is_read_up_to_its_64th_term() -> None:
    documents = [(["ant"], ["bee"] * 70 + ["cat"]), ([], ["cat", "ant"])]
    queries = [["bee"] * 63 + ["cat", "ant"], ["bee"] * 64 + ["cat", "ant"], ["ant"] * 200]
    names = ["longest_phrase_whole", "bigrams_whole"]
    computed = features_of(lexicon_of(documents), queries, names)
    corpus = naive.Corpus(documents)
    for name in names:
        expected = [naive.value(name, corpus, query, row) for query in queries for row in range(2)]
        np.testing.assert_allclose(computed[name], expected, rtol=1e-6, err_msg=name)
    assert computed["longest_phrase_whole"][0] == 1.0


@pytest.fixture(scope="module")
def zipf() -> tuple[list[tuple[list[str], list[str]]], list[list[str]]]:
    rng = np.random.default_rng(7)
    share = 1 / np.arange(1, 301)

    def draw(size: int) -> list[str]:
        return [f"w{term}" for term in rng.choice(300, size, p=share / share.sum())]

    documents = [(draw(int(rng.integers(0, 6))), draw(int(rng.integers(0, 60)))) for _ in range(120)]
    return documents, [[*draw(5), "unseen"] for _ in range(20)]


def test_bm25_is_that_of_bm25s(zipf: tuple[list[tuple[list[str], list[str]]], list[list[str]]]) -> None:
    documents, queries = zipf
    lexicon = lexicon_of(documents)
    computed = features_of(lexicon, queries, ["bm25_title", "bm25_text", "bm25_whole"])
    fields = {
        "bm25_title": [title for title, _ in documents],
        "bm25_text": [text for _, text in documents],
        "bm25_whole": [title + text for title, text in documents],
    }
    for name, rows in fields.items():
        index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        index.index(rows, show_progress=False)
        vocabulary = sorted({term for row in rows for term in row})

        def rarity(term: str, rows: list[list[str]] = rows) -> float:
            df = sum(term in row for row in rows)
            return float(np.log1p((len(rows) - df + 0.5) / (df + 0.5)))

        # bm25s counts df in the field it is given; here a term has one idf, that of title and text together.
        scale = {term: lexicon.idf[lexicon.vocabulary[term]] / rarity(term) for term in vocabulary}
        expected = [
            sum(index.get_scores([term]) * scale[term] for term in query if term in scale) + np.zeros(len(documents))
            for query in queries
        ]
        np.testing.assert_allclose(computed[name], np.concatenate(expected), atol=1e-5, err_msg=name)
        if name == "bm25_whole":
            known = [[term for term in query if term in scale] for query in queries]
            np.testing.assert_allclose(computed[name], np.concatenate([index.get_scores(q) for q in known]), atol=1e-5)
