"""Text analysis: from a string to the terms that BM25 and the lexical features see.

An `Analyzer` is plain data. It is stored beside every index, so that a query is always analysed as the documents were.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import Stemmer
from bm25s import stopwords

from retrieval.errors import InputError

# Han, kana, half-width kana, hangul: scripts whose words no space separates (hangul has spaces, but agglutinates).
CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{CJK}]+|[^\\W_{CJK}]{{2,}}")
_STARTS_CJK = re.compile(f"[{CJK}]")

_STOPWORDS: dict[str, Sequence[str]] = {
    "danish": stopwords.STOPWORDS_DANISH,
    "dutch": stopwords.STOPWORDS_DUTCH,
    "english": stopwords.STOPWORDS_EN,
    "french": stopwords.STOPWORDS_FRENCH,
    "german": stopwords.STOPWORDS_GERMAN,
    "norwegian": stopwords.STOPWORDS_NORWEGIAN,
    "portuguese": stopwords.STOPWORDS_PORTUGUESE,
    "russian": stopwords.STOPWORDS_RUSSIAN,
    "spanish": stopwords.STOPWORDS_SPANISH,
    "swedish": stopwords.STOPWORDS_SWEDISH,
    "turkish": stopwords.STOPWORDS_TURKISH,
}


@dataclass(frozen=True)
class Analyzer:
    """Lowercases, drops stopwords, stems with Snowball, and cuts CJK runs into characters and bigrams.

    Words are runs of two or more letters and digits (`_` separates, so `read_csv` is two words). A CJK run becomes its
    characters and overlapping bigrams, as Lucene's CJKBigramFilter with unigrams: `机器学` → 机, 机器, 器, 器学, 学.

    language: a Snowball language, for stopwords and stemming, or "none" for neither.
    """

    language: str = "english"
    stopwords: bool = True
    stemming: bool = True

    def __post_init__(self) -> None:
        known = ["none", *Stemmer.algorithms()]
        if self.language not in known:
            raise InputError(f"analysis: language {self.language!r} is not known; one of {', '.join(known)}")

    @cached_property
    def _stopwords(self) -> frozenset[str]:
        return frozenset(_STOPWORDS.get(self.language, ())) if self.stopwords else frozenset()

    @cached_property
    def _stemmer(self) -> Any:
        return Stemmer.Stemmer(self.language) if self.stemming and self.language != "none" else None

    def words(self, text: str) -> list[str]:
        """The lowercased words of `text` in order, stopwords included, unstemmed; CJK runs whole."""
        return _RUN.findall(text.lower())

    def terms(self, word: str) -> list[str]:
        """The index terms of one word of `words`: none for a stopword, several for a CJK run, otherwise one."""
        if _STARTS_CJK.match(word):
            return [part for at in range(len(word)) for part in (word[at], word[at : at + 2])][: 2 * len(word) - 1]
        if word in self._stopwords:
            return []
        return [self._stemmer.stemWord(word) if self._stemmer else word]

    def analyze(self, texts: Iterable[str]) -> list[list[str]]:
        """The index terms of every text, in text order."""
        memo: dict[str, list[str]] = {}
        analyzed = []
        for text in texts:
            row: list[str] = []
            for word in self.words(text):
                terms = memo.get(word)
                if terms is None:
                    terms = memo[word] = self.terms(word)
                row.extend(terms)
            analyzed.append(row)
        return analyzed

    def as_dict(self) -> dict[str, Any]:
        """The settings, as stored with an index; `Analyzer(**settings)` gives the same analysis back."""
        return asdict(self)
