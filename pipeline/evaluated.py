"""What an evaluation found: plain values, and the JSON of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import polars as pl

from retrieval.metrics import Blank

Interval = tuple[float, float]


@dataclass(frozen=True)
class Fingerprints:
    """SHA-256 of what systems were judged on: figures compare only where all of these are equal.

    qrels: the judgements (qid, docid, relevance). queries: the ids judged. texts: their text, None where unknown.
    """

    qrels: str
    queries: str
    texts: str | None = None


@dataclass(frozen=True)
class Value:
    """A mean under each policy for queries with nothing relevant, and its 95 % bootstrap interval under the
    evaluation's own. `skip` is None where no query has a relevant document."""

    zero: float
    one: float
    skip: float | None
    ci95: Interval


@dataclass(frozen=True)
class SystemFigures:
    """One system, judged.

    metrics: metric → its means. mean_rank: over the queries, by the evaluation's metric, 1 the best.
    ndcg_by_k: cutoff → (mean, low, high), in the gain convention of the evaluation's metric, under its blank policy.
    answered: judged queries with a document ranked. candidates, features: fingerprints of the documents ranked and of
    the set of features read. All three are None where unknown.
    label: `A`, `B`, … where systems ranked different candidates and `1`, `2`, … where they read different features,
        such as `A2`; empty where all are alike.
    per_query: qid and one Float64 column a metric, null where nothing is relevant.
    """

    name: str
    metrics: Mapping[str, Value]
    mean_rank: float
    ndcg_by_k: Mapping[int, tuple[float, float, float]]
    answered: int | None
    candidates: str | None
    features: str | None
    label: str
    per_query: pl.DataFrame

    @property
    def shown(self) -> str:
        """The name as tables and plots show it, with its label."""
        return f"{self.name} ({self.label})" if self.label else self.name


@dataclass(frozen=True)
class Pair:
    """System `one` less system `other` (its equal or worse in the mean) over the queries.

    p_value: two-sided paired randomisation test; p_holm: the same, Holm-corrected over all pairs of the evaluation.
    wins, losses, ties: queries where `one` is better, worse, equal.
    """

    one: str
    other: str
    difference: float
    ci95: Interval
    p_value: float
    p_holm: float
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class Friedman:
    """Friedman's test that all systems rank alike over the queries (chi-squared, corrected for ties)."""

    statistic: float
    p_value: float


@dataclass(frozen=True)
class Group:
    """The queries of one `group` of a `kind` ("length": "2–3 words"): system → mean and its 95 % interval."""

    kind: str
    group: str
    queries: int
    means: Mapping[str, float]
    ci95: Mapping[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """Systems on the same queries, best first, and every pair of them.

    metric: the one that orders, tests and draws; the others are reported. blank: what the `blank_queries` (nothing
    relevant) of all `queries` count in intervals, tests, ranks, curves and groups ("skip": they are left out).
    cliques: maximal sets of systems no two of which differ significantly (Holm-corrected p ≥ .05).
    notes: what a reader must know to compare: different candidates, different features, unanswered queries.
    """

    metric: str
    blank: Blank
    split: str
    queries: int
    blank_queries: int
    fingerprints: Fingerprints
    systems: Sequence[SystemFigures]
    pairs: Sequence[Pair]
    friedman: Friedman | None
    cliques: Sequence[Sequence[str]]
    groups: Sequence[Group]
    notes: Sequence[str]

    @cached_property
    def _by_name(self) -> dict[str, SystemFigures]:
        return {system.name: system for system in self.systems}

    def system(self, name: str) -> SystemFigures:
        return self._by_name[name]

    def pair(self, one: str, other: str) -> Pair:
        """The pair of two systems, whichever of them is better."""
        return next(pair for pair in self.pairs if {pair.one, pair.other} == {one, other})

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.systems[0].metrics)

    @property
    def judged(self) -> int:
        """Queries that count under the blank policy."""
        return self.queries - self.blank_queries if self.blank == "skip" else self.queries

    def as_json(self) -> dict[str, Any]:
        """Everything but the figures a query, as `json.dumps` takes it."""
        return {
            "metric": self.metric,
            "blank": self.blank,
            "split": self.split,
            "queries": self.queries,
            "blank_queries": self.blank_queries,
            "fingerprints": asdict(self.fingerprints),
            "systems": [_system(system) for system in self.systems],
            "pairs": [{**asdict(pair), "ci95": list(pair.ci95)} for pair in self.pairs],
            "friedman": self.friedman and asdict(self.friedman),
            "cliques": [list(clique) for clique in self.cliques],
            "groups": [_group(group) for group in self.groups],
            "notes": list(self.notes),
        }


def _system(system: SystemFigures) -> dict[str, Any]:
    curve = {str(k): {"mean": mean, "ci95": [low, high]} for k, (mean, low, high) in system.ndcg_by_k.items()}
    return {
        "name": system.name,
        "label": system.label,
        "mean_rank": system.mean_rank,
        "answered": system.answered,
        "candidates": system.candidates,
        "features": system.features,
        "metrics": {name: {**asdict(value), "ci95": list(value.ci95)} for name, value in system.metrics.items()},
        "ndcg_by_k": curve,
    }


def _group(group: Group) -> dict[str, Any]:
    figures = {name: {"mean": mean, "ci95": list(group.ci95[name])} for name, mean in group.means.items()}
    return {"kind": group.kind, "group": group.group, "queries": group.queries, "systems": figures}
