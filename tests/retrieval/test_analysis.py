"""Analysis: what a text becomes, and that it stays the same once stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.analysis import Analyzer
from retrieval.errors import InputError


def test_lowercases_drops_stopwords_stems_and_splits_identifiers() -> None:
    assert Analyzer().analyze(["The ZipFile.read_files of a running archive"]) == [
        ["zipfil", "read", "file", "run", "archiv"]
    ]


def test_without_a_language_words_stay_whole() -> None:
    assert Analyzer(language="none").analyze(["The running"]) == [["the", "running"]]


def test_cjk_runs_become_characters_and_bigrams() -> None:
    assert Analyzer().analyze(["机器学 test"]) == [["机", "机器", "器", "器学", "学", "test"]]


def test_a_chinese_query_finds_its_words_inside_longer_text() -> None:
    query, document, other = Analyzer().analyze(["学习", "机器学习是人工智能的分支", "今天天气很好"])
    assert set(query) <= set(document)
    assert not set(query) & set(other)


@given(st.lists(st.text(max_size=40), max_size=5))
def test_a_text_is_analysed_the_same_alone_and_among_others(texts: list[str]) -> None:
    analyzer = Analyzer(**Analyzer().as_dict())
    assert analyzer.analyze(texts) == [Analyzer().analyze([text])[0] for text in texts]


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'klingon' is not known; one of none, .*english"):
        Analyzer(language="klingon")
