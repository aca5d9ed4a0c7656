"""What a run of the main job found: one value a system, and the leaderboard that holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from pipeline.evaluated import Fingerprints
from retrieval.metrics import Blank

StageName = Literal["retrieve", "fuse", "rank", "rerank"]


@dataclass(frozen=True)
class System:
    """One way of ranking, judged.

    name: `bm25`, `dense`, `fused`, `pointwise`, `ranknet`, `lambdamart`, …
    stage: the stage whose output it is.
    key: SHA-256 of everything that made it (data, settings, code): equal keys, equal results.
    params: settings, flat, for people to read.
    per_query: split ("valid", "test") → a frame of qid and one Float64 column a metric, a row for every judged query.
    metrics: the means over the judged (test) queries under the leaderboard's blank policy.
    ms_per_query: wall time of its whole path, query text to ranking, in batch, over the queries judged.
    stage_ms: the same by stage, in order of the path.
    ndcg_by_k: k → mean ndcg_cut_k on the judged queries.
    ranker: the artifact's folder (rankers.artifact.load_ranker), for learned systems.
    curve: columns `step` and one Float64 column a logged training or validation metric, for learned systems.
    importance: feature → mean absolute contribution to the score on validation, for learned systems.
    run: its RUN as Parquet, from which tracking reads which candidates it ranked.
    """

    name: str
    stage: StageName
    key: str
    params: Mapping[str, str | int | float | bool]
    per_query: Mapping[str, pl.DataFrame]
    metrics: Mapping[str, float]
    ci95: tuple[float, float]
    ms_per_query: float
    stage_ms: Mapping[str, float]
    ndcg_by_k: Mapping[int, float]
    ranker: Path | None = None
    curve: pl.DataFrame | None = None
    importance: Mapping[str, float] = field(default_factory=dict)
    run: Path | None = None


@dataclass(frozen=True)
class Versus:
    """A system against the baseline on the judged queries: mean difference in ndcg_cut_10, its 95 % bootstrap interval,
    and the paired randomisation test's p-value, Holm-corrected over the leaderboard's systems."""

    difference: float
    ci95: tuple[float, float]
    p_value: float


def p_text(p_value: float) -> str:
    """A p-value as tables show it."""
    return "<.001" if p_value < 0.001 else f"{p_value:.3f}"


@dataclass(frozen=True)
class Leaderboard:
    """Every system of one run on one data set, judged on the same queries.

    dataset, fingerprint: the data set's name and content hash (corpus + queries + qrels + splits).
    split: the name of the judged split as the data set calls it.
    blank: what a query with nothing relevant counts ("zero", "one", "skip").
    baseline: the earlier (not learned) stage that is best on validation; `versus` compares every other system with it.
    selected: the system that is best on validation: the one this run puts forward for promotion.
    judged_on: fingerprints of the test judgements and queries, by which later evaluations know that figures compare.
    """

    dataset: str
    fingerprint: str
    split: str
    blank: Blank
    queries: int
    systems: Sequence[System]
    baseline: str
    selected: str
    versus: Mapping[str, Versus]
    notes: Sequence[str] = ()
    judged_on: Fingerprints | None = None

    def system(self, name: str) -> System:
        return next(system for system in self.systems if system.name == name)

    def as_json(self) -> dict[str, Any]:
        """The object that `cascade run --json` prints."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "blank": self.blank,
            "queries": self.queries,
            "fingerprint": self.fingerprint,
            "baseline": self.baseline,
            "selected": self.selected,
            "systems": [self._row(system) for system in self.systems],
            "notes": list(self.notes),
        }

    def _row(self, system: System) -> dict[str, Any]:
        versus = self.versus.get(system.name)
        return {
            "name": system.name,
            "stage": system.stage,
            **system.metrics,
            "ci95": list(system.ci95),
            "p_value": versus.p_value if versus else None,
            "difference": versus.difference if versus else None,
            "difference_ci95": list(versus.ci95) if versus else None,
            "ms_per_query": system.ms_per_query,
        }
