"""BM25 and the lexicon under it, against the formula computed by hand."""

import math
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.analysis import Analyzer
from retrieval.bm25 import BM25
from retrieval.lexicon import Lexicon

PLAIN = Analyzer(language="none")
words = st.lists(st.sampled_from(["aa", "bb", "cc", "dd", "ee"]), max_size=6).map(" ".join)
corpora = st.lists(st.tuples(words, words), min_size=1, max_size=8)


def corpus(rows: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(f"d{n}", *row) for n, row in enumerate(rows)], schema=["docid", "title", "text"], orient="row"
    )


def queries(*texts: str) -> pl.DataFrame:
    return pl.DataFrame({"qid": [str(n) for n in range(len(texts))], "query": list(texts)})


def by_hand(rows: list[tuple[str, str]], query: str, k1: float = 1.2, b: float = 0.75) -> list[float]:
    documents = [f"{title} {text}".split() for title, text in rows]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        tf, total = Counter(document), 0.0
        for term in query.split():
            df = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            if tf[term]:
                total += idf * tf[term] / (tf[term] + k1 * (1 - b + b * len(document) / mean))
        scores.append(total)
    return scores


@settings(deadline=None)
@given(corpora, words.filter(bool))
def test_scores_are_the_formula(rows: list[tuple[str, str]], query: str) -> None:
    run = BM25.build(Lexicon.build(corpus(rows), PLAIN)).search(queries(query), 100)
    found = dict(run.select("docid", "score").iter_rows())
    expected = {f"d{n}": score for n, score in enumerate(by_hand(rows, query)) if score > 0}
    assert found == pytest.approx(expected, rel=1e-5)


@settings(deadline=None)
@given(corpora, words.filter(bool), st.integers(1, 3))
def test_a_cut_keeps_the_best_and_breaks_ties_by_docid(rows: list[tuple[str, str]], query: str, depth: int) -> None:
    index = BM25.build(Lexicon.build(corpus(rows), PLAIN))
    assert index.search(queries(query), depth).rows() == index.search(queries(query), 100).head(depth).rows()


def test_a_query_of_unknown_terms_finds_nothing_and_others_still_do() -> None:
    index = BM25.build(Lexicon.build(corpus([("aa", "bb"), ("", "cc")]), PLAIN))
    assert index.search(queries("zz", "cc"), 10)["docid"].to_list() == ["d1"]


def test_a_corpus_without_terms_can_be_built_stored_and_searched(tmp_path: Path) -> None:
    BM25.build(Lexicon.build(corpus([("", ""), ("", "")]), PLAIN)).save(tmp_path)
    assert BM25.load(tmp_path).search(queries("aa"), 10).is_empty()


def test_what_is_loaded_searches_as_what_was_saved(tmp_path: Path) -> None:
    docs = corpus([("机器学习", "zip files"), ("Reading", "a zipped file"), ("", "archives")])
    built = BM25.build(Lexicon.build(docs, Analyzer()), k1=0.9, b=0.4)
    built.save(tmp_path)
    loaded = BM25.load(tmp_path)
    asked = queries("学习", "reading files")
    assert loaded.search(asked, 10).rows() == built.search(asked, 10).rows()
    assert loaded.lexicon.analyzer == Analyzer()
    assert loaded.search(asked, 10)["docid"].to_list()[0] == "d0"


@given(corpora)
def test_the_whole_field_is_title_then_text_and_frequencies_count_documents(rows: list[tuple[str, str]]) -> None:
    lexicon = Lexicon.build(corpus(rows), PLAIN)
    names = list(lexicon.vocabulary)
    whole = [
        [names[term] for term in lexicon.whole.ids[start:stop]]
        for start, stop in zip(lexicon.whole.offsets, lexicon.whole.offsets[1:], strict=False)
    ]
    assert whole == [f"{title} {text}".split() for title, text in rows]
    assert lexicon.document_frequency.tolist() == [sum(name in row for row in whole) for name in names]
