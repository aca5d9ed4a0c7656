"""Systems judged on the same queries, and what their figures do and do not say: frames in, figures out.

`evaluate` judges runs; `compare` does the same with figures that were judged before. Nothing here reads a file or
knows MLflow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline import comparable, query_kinds
from pipeline.comparable import Judged, candidates_of, feature_set, fingerprints_of
from pipeline.evaluated import Evaluation, Friedman, Group, Interval, Pair, SystemFigures, Value
from retrieval import metrics as judging
from retrieval import pairwise
from retrieval.errors import InputError
from retrieval.frames import PAIRS, SCORED, check
from retrieval.metrics import Blank, fill_blank
from retrieval.significance import holm

__all__ = ["DEFAULT_METRICS", "Evaluation", "Judged", "compare", "evaluate", "feature_set", "judge"]

Figures: TypeAlias = NDArray[np.float64]

DEFAULT_METRICS = ("ndcg_cut_10", "ndcg_exp_cut_10", "map", "recip_rank", "err_10", "precision_10")
CUTOFFS = (1, 2, 3, 5, 10, 20, 50, 100)
LEVEL = 0.05


def evaluate(
    runs: Mapping[str, pl.DataFrame],
    qrels: pl.DataFrame,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    blank: Blank = "zero",
    queries: pl.DataFrame | None = None,
    kinds: Sequence[str] | None = None,
    features: Mapping[str, Sequence[str]] | None = None,
    split: str = "test",
) -> Evaluation:
    """Judge `runs` (name → RUN, or SCORED) by `qrels` over all of its queries, and compare every pair.

    metrics: the first is the one that systems are ordered, tested and drawn by. blank: what a query with nothing
    relevant counts in intervals and tests (means are given under all three policies). queries, kinds: for the results
    by kind, see `query_kinds.groups`. features: name → the features that it reads.
    A query that a run does not answer counts 0.

    Raises InputError for no runs, for one that answers no judged query, and as `retrieval.metrics.per_query` does.
    """
    judged = judge(runs, qrels, metrics=metrics, queries=queries, features=features, split=split)
    return compare(judged, metrics=metrics, blank=blank, qrels=qrels, queries=queries, kinds=kinds)


def judge(
    runs: Mapping[str, pl.DataFrame],
    qrels: pl.DataFrame,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    queries: pl.DataFrame | None = None,
    features: Mapping[str, Sequence[str]] | None = None,
    split: str = "test",
) -> dict[str, Judged]:
    """The first half of `evaluate`: each run's figures a query, the curve's among them, and its fingerprints."""
    fingerprints = fingerprints_of(qrels, queries)
    asked = list(dict.fromkeys([*metrics, *(f"{_curve(metrics)}_{k}" for k in CUTOFFS)]))
    known: dict[tuple[int, ...], str] = {}
    judged = {}
    for name, run in runs.items():
        pairs = check(run, SCORED, f"run {name}").select(*PAIRS).join(qrels, on="qid", how="semi")
        if pairs.is_empty():
            count = qrels["qid"].n_unique()
            raise InputError(f"run {name}: answers none of the {count} judged queries; are the ids the same?")
        judged[name] = Judged(
            per_query=judging.per_query(run, qrels, asked),
            fingerprints=fingerprints,
            split=split,
            candidates=candidates_of(pairs, known),
            features=feature_set(features[name]) if features and name in features else None,
            answered=pairs["qid"].n_unique(),
        )
    return judged


def compare(
    judged: Mapping[str, Judged],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    blank: Blank = "zero",
    qrels: pl.DataFrame | None = None,
    queries: pl.DataFrame | None = None,
    kinds: Sequence[str] | None = None,
) -> Evaluation:
    """Compare systems that were judged on the same queries; `qrels` and `queries` serve the results by kind alone.

    Raises InputError naming the two systems that were judged on another split, other queries or other judgements, and
    the system that has no figures of a metric.
    """
    fill_blank(pl.DataFrame({"qid": []}), blank)
    first = comparable.refuse_strangers(judged)
    table = _Table.of(judged, metrics, blank)
    means = {name: float(column.mean()) for name, column in zip(judged, table.headline.T, strict=True)}
    order = sorted(judged, key=lambda name: -means[name])
    table = _Table.of({name: judged[name] for name in order}, metrics, blank)
    shown = comparable.labels(judged)
    ranks = pairwise.ranks(table.headline)
    figures = table.systems()
    p_holm, pairs = _pairs(order, table)
    blanks = int(table.blank_rows.sum())
    return Evaluation(
        metric=metrics[0],
        blank=blank,
        split=first.split,
        queries=len(table.blank_rows),
        blank_queries=blanks,
        fingerprints=first.fingerprints,
        systems=[
            SystemFigures(
                name=name,
                metrics=figures[name][0],
                mean_rank=float(ranks[:, place].mean()),
                ndcg_by_k=figures[name][1],
                answered=judged[name].answered,
                candidates=judged[name].candidates,
                features=judged[name].features,
                label=shown[name],
                per_query=judged[name].per_query,
            )
            for place, name in enumerate(order)
        ],
        pairs=pairs,
        friedman=Friedman(*pairwise.friedman(ranks)) if len(order) > 1 else None,
        cliques=[[order[place] for place in clique] for clique in pairwise.cliques(p_holm >= LEVEL)],
        groups=_groups(table, order, qrels, queries, kinds),
        notes=comparable.notes(judged, shown, len(table.blank_rows)),
    )


@dataclass(frozen=True)
class _Table:
    """All figures of all systems on the same rows of queries: metric → [queries, systems], NaN where undefined."""

    names: Sequence[str]
    metrics: Sequence[str]
    curve: Mapping[int, str]
    blank: Blank
    qids: pl.Series
    blank_rows: NDArray[np.bool_]
    raw: Mapping[str, Figures] = field(repr=False)

    @classmethod
    def of(cls, judged: Mapping[str, Judged], metrics: Sequence[str], blank: Blank) -> "_Table":
        for name, system in judged.items():
            if absent := [metric for metric in metrics if metric not in system.per_query.columns]:
                there = ", ".join(system.per_query.columns[1:])
                raise InputError(f"{name}: has no figures a query of {absent[0]}; it has {there}")
        qids = next(iter(judged.values())).per_query["qid"]
        aligned = [_aligned(name, system.per_query, qids) for name, system in judged.items()]
        curve = {
            k: column
            for k in CUTOFFS
            if all((column := f"{_curve(metrics)}_{k}") in frame.columns for frame in aligned)
        }
        columns = dict.fromkeys([*metrics, *curve.values()])
        raw = {metric: np.column_stack([frame[metric].to_numpy() for frame in aligned]) for metric in columns}
        # Beyond the deepest ranking the curve is flat.
        while len(curve) > 1 and _same(*(raw[curve[k]] for k in list(curve)[-2:])):
            curve.popitem()
        undefined = np.isnan(raw[metrics[0]])
        if (odd := (undefined != undefined[:, :1]).any(axis=0)).any():
            one, other = next(iter(judged)), list(judged)[int(odd.argmax())]
            raise InputError(
                f"{one} and {other} were judged by different qrels: their queries with nothing relevant differ"
            )
        return cls(list(judged), list(dict.fromkeys(metrics)), curve, blank, qids, undefined[:, 0], raw)

    def filled(self, metric: str) -> Figures:
        """[queries that count, systems] under the blank policy."""
        values = self.raw[metric]
        if self.blank == "skip":
            values = values[~np.isnan(values).any(axis=1)]
            if not len(values):
                raise InputError(f"no query has a relevant document, so blank={self.blank!r} leaves nothing to compare")
            return values
        return np.nan_to_num(values, nan={"zero": 0.0, "one": 1.0}[self.blank])

    @property
    def headline(self) -> Figures:
        return self.filled(self.metrics[0])

    def systems(self) -> dict[str, tuple[dict[str, Value], dict[int, tuple[float, float, float]]]]:
        """Name → its values by metric, and its curve; all intervals from one set of resampled queries."""
        blocks = {metric: self.filled(metric) for metric in self.raw}
        bounds: dict[str, Figures] = {}
        # Under `skip` a metric that is defined for every query keeps more rows than the others.
        for height in {len(block) for block in blocks.values()}:
            alike = {metric: block for metric, block in blocks.items() if len(block) == height}
            spread = pairwise.interval(pairwise.resampled_means(np.concatenate(list(alike.values()), axis=1)))
            bounds |= dict(zip(alike, np.split(spread, len(alike), axis=1), strict=True))
        found = {}
        for place, name in enumerate(self.names):
            ci95 = {metric: (float(low[place]), float(high[place])) for metric, (low, high) in bounds.items()}
            values = {metric: _value(self.raw[metric][:, place], ci95[metric]) for metric in self.metrics}
            curve = {k: (float(blocks[m][:, place].mean()), *ci95[m]) for k, m in self.curve.items()}
            found[name] = (values, curve)
        return found


def _aligned(name: str, figures: pl.DataFrame, qids: pl.Series) -> pl.DataFrame:
    if figures["qid"].equals(qids):
        return figures
    joined = qids.to_frame("qid").join(figures, on="qid", how="inner", maintain_order="left")
    if joined.height != figures.height or joined.height != qids.len():
        raise InputError(f"{name}: was judged on {figures.height} queries that are not the {qids.len()} of the others")
    return joined


def _same(one: Figures, other: Figures) -> bool:
    return np.array_equal(one, other, equal_nan=True)


def _value(column: Figures, ci95: Interval) -> Value:
    defined = column[~np.isnan(column)]
    blanks = len(column) - len(defined)
    zero = float(defined.sum()) / len(column)
    return Value(zero, zero + blanks / len(column), float(defined.mean()) if len(defined) else None, ci95)


def _pairs(order: Sequence[str], table: _Table) -> tuple[Figures, list[Pair]]:
    """Holm-corrected p-values [systems, systems], and every pair, the better first."""
    x = table.headline
    ones, others = np.triu_indices(len(order), 1)
    p = pairwise.p_values(x)
    corrected = np.ones_like(p)
    if not len(ones):
        return corrected, []
    corrected[ones, others] = corrected[others, ones] = holm(p[ones, others].tolist())
    resampled = pairwise.resampled_means(x)
    pairs = []
    for one, other in zip(ones.tolist(), others.tolist(), strict=True):
        difference = x[:, one] - x[:, other]
        low, high = pairwise.interval(resampled[:, one] - resampled[:, other])
        wins, losses = int((difference > pairwise.SAME).sum()), int((difference < -pairwise.SAME).sum())
        pairs.append(
            Pair(
                one=order[one],
                other=order[other],
                difference=float(difference.mean()),
                ci95=(float(low), float(high)),
                p_value=float(p[one, other]),
                p_holm=float(corrected[one, other]),
                wins=wins,
                losses=losses,
                ties=len(x) - wins - losses,
            )
        )
    return corrected, pairs


def _groups(
    table: _Table,
    order: Sequence[str],
    qrels: pl.DataFrame | None,
    queries: pl.DataFrame | None,
    kinds: Sequence[str] | None,
) -> list[Group]:
    relevant = None
    if qrels is not None:
        counted = qrels.group_by("qid").agg((pl.col("relevance") > 0).sum())
        relevant = dict(counted.iter_rows())
    kept = ~table.blank_rows if table.blank == "skip" else np.ones(len(table.blank_rows), dtype=bool)
    x, found = table.headline, []
    for kind, frame in query_kinds.groups(table.qids, relevant=relevant, queries=queries, kinds=kinds).items():
        labels = frame["group"].to_numpy()[kept]
        for group in frame.filter(pl.Series(kept)).unique("place").sort("place")["group"]:
            mine = x[labels == group]
            low, high = pairwise.interval(pairwise.resampled_means(mine))
            means = dict(zip(order, mine.mean(axis=0).tolist(), strict=True))
            ci95 = dict(zip(order, zip(low.tolist(), high.tolist(), strict=True), strict=True))
            found.append(Group(kind, group, len(mine), means, ci95))
    return found


def _curve(metrics: Sequence[str]) -> str:
    if not metrics:
        raise InputError("no metric was asked for; name at least one, such as ndcg_cut_10")
    return "ndcg_exp_cut" if metrics[0].startswith("ndcg_exp_cut") else "ndcg_cut"
