"""The word features once more, one pair at a time, in plain Python: the oracle of the property tests.

Nothing here is shared with the package, and nothing is vectorised.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log


@dataclass(frozen=True)
class Corpus:
    """Documents as (title terms, text terms)."""

    documents: list[tuple[list[str], list[str]]]

    def field(self, row: int, name: str) -> list[str]:
        title, text = self.documents[row]
        return {"title": title, "text": text, "whole": title + text}[name]

    def mean_length(self, name: str) -> float:
        lengths = [len(self.field(row, name)) for row in range(len(self.documents))]
        return sum(lengths) / len(lengths) or 1.0

    def df(self, term: str) -> int:
        return sum(term in title + text for title, text in self.documents)

    def idf(self, term: str) -> float:
        return log(1 + (len(self.documents) - self.df(term) + 0.5) / (self.df(term) + 0.5))

    def share(self, term: str) -> float:
        vocabulary = {t for title, text in self.documents for t in title + text}
        return self.df(term) / sum(self.df(t) for t in vocabulary)


@dataclass(frozen=True)
class Pair:
    """One query (terms in order) against one field of one document."""

    corpus: Corpus
    query: list[str]
    row: int
    name: str

    @property
    def field(self) -> list[str]:
        return self.corpus.field(self.row, self.name)

    @property
    def known(self) -> list[str]:
        return [term for term in self.query if self.corpus.df(term)]

    @property
    def unknown(self) -> int:
        return len(self.query) - len(self.known)

    @property
    def matched(self) -> list[str]:
        return sorted(set(self.known) & set(self.field))

    @property
    def idfs(self) -> list[float]:
        return [self.corpus.idf(term) for term in self.matched]

    @property
    def k(self) -> float:
        return 1.2 * (0.25 + 0.75 * len(self.field) / self.corpus.mean_length(self.name))

    @property
    def hits(self) -> list[tuple[int, str]]:
        return [(at, term) for at, term in enumerate(self.field) if term in self.query]


def over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def bm25(p: Pair) -> float:
    tf = Counter(p.field)
    return sum(p.corpus.idf(t) * tf[t] / (tf[t] + p.k) for t in p.known)


def tf_idf(p: Pair) -> float:
    return sum((1 + log(p.field.count(t))) * p.corpus.idf(t) for t in p.known if t in p.field)


def likelihood(p: Pair) -> float:
    mu = p.corpus.mean_length(p.name)
    logs = [log((p.field.count(t) + mu * p.corpus.share(t)) / (len(p.field) + mu)) for t in p.known]
    return over(sum(logs), len(logs))


def coverage(p: Pair) -> float:
    return over(len(p.matched), len(set(p.known)) + p.unknown)


def query_idf_sum(p: Pair) -> float:
    return sum(p.corpus.idf(t) for t in set(p.known)) + p.unknown * p.corpus.idf("never seen")


def rarest_matched(p: Pair) -> float:
    rarest = min((p.corpus.df(t) for t in p.known), default=0)
    return float(any(p.corpus.df(t) == rarest for t in p.matched))


def longest_phrase(p: Pair) -> float:
    query = p.query[:64]
    longest = max(
        (
            stop - start
            for start in range(len(query))
            for stop in range(start + 1, len(query) + 1)
            if query[start:stop] in [p.field[at : at + stop - start] for at in range(len(p.field))]
        ),
        default=0,
    )
    return over(longest, len(query))


def bigrams(p: Pair) -> float:
    query = list(pairwise(p.query[:64]))
    return over(sum(pair in set(pairwise(p.field)) for pair in query), len(query))


def closeness(p: Pair) -> float:
    distances = [abs(a - b) for a, s in p.hits for b, t in p.hits if s != t]
    return 1 / min(distances, default=inf)


def term_proximity(p: Pair) -> float:
    gathered = dict.fromkeys(p.query, 0.0)
    for (at, term), (after, following) in pairwise(p.hits):
        if term != following:
            gathered[term] += p.corpus.idf(following) / (after - at) ** 2
            gathered[following] += p.corpus.idf(term) / (after - at) ** 2
    return sum(min(1, p.corpus.idf(t)) * a * 2.2 / (a + p.k) for t, a in gathered.items())


FIELDED: dict[str, Callable[[Pair], float]] = {
    "bm25": bm25,
    "tf_idf": tf_idf,
    "likelihood": likelihood,
    "overlap": lambda p: len(p.matched),
    "coverage": coverage,
    "idf_coverage": lambda p: over(sum(p.idfs), query_idf_sum(p)),
    "rarest_matched": rarest_matched,
    "missed_idf": lambda p: max((p.corpus.idf(t) for t in set(p.known) - set(p.matched)), default=0.0),
    "idf_sum": lambda p: sum(p.idfs),
    "idf_min": lambda p: min(p.idfs, default=0.0),
    "idf_max": lambda p: max(p.idfs, default=0.0),
    "idf_mean": lambda p: over(sum(p.idfs), len(p.idfs)),
    "tf_sum": lambda p: len(p.hits),
    "tf_min": lambda p: min((p.field.count(t) for t in p.known), default=0),
    "tf_max": lambda p: max((p.field.count(t) for t in p.known), default=0),
    "density": lambda p: over(len(p.hits), len(p.field)),
    "longest_phrase": longest_phrase,
    "bigrams": bigrams,
    "closeness": closeness,
    "term_proximity": term_proximity,
    "earliness": lambda p: 1 / (1 + p.hits[0][0]) if p.hits else 0.0,
}
ALONE: dict[str, Callable[[Pair], float]] = {
    "query_length": lambda p: len(p.query),
    "query_idf_sum": query_idf_sum,
    "query_idf_mean": lambda p: over(query_idf_sum(p), len(set(p.known)) + p.unknown),
    "query_idf_max": lambda p: max((p.corpus.idf(t) for t in p.known), default=0.0),
    "query_unknown_share": lambda p: over(p.unknown, len(p.query)),
    "title_length": lambda p: len(p.corpus.field(p.row, "title")),
    "text_length": lambda p: len(p.corpus.field(p.row, "text")),
    "distinct_share": lambda p: over(len(set(p.field)), len(p.field)),
    "specificity": lambda p: over(sum(p.corpus.idf(t) for t in p.field), len(p.field)),
}


def value(name: str, corpus: Corpus, query: list[str], row: int) -> float:
    """The feature `name` of one pair."""
    if name in ALONE:
        return float(ALONE[name](Pair(corpus, query, row, "whole")))
    function, field = name.rsplit("_", 1)
    return float(FIELDED[function](Pair(corpus, query, row, field)))
