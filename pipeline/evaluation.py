"""Systems judged on the same queries, and what their figures do and do not say: frames in, figures out.

`evaluate` judges runs; `compare` does the same with figures that were judged before. Nothing here reads a file or
knows MLflow.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from pipeline import comparable, query_kinds
from pipeline.comparable import Judged, averaged, candidates_of, feature_set, fingerprints_of
from pipeline.evaluated import Evaluation, Friedman, Group, Pair, SystemFigures
from pipeline.judged_table import CUTOFFS, Figures, JudgedTable, curve_metric
from retrieval import metrics as judging
from retrieval import pairwise
from retrieval.errors import InputError
from retrieval.frames import PAIRS, SCORED, check
from retrieval.metrics import Blank, fill_blank
from retrieval.significance import holm

__all__ = ["DEFAULT_METRICS", "Evaluation", "Judged", "averaged", "compare", "evaluate", "feature_set", "judge"]

DEFAULT_METRICS = ("ndcg_cut_10", "ndcg_exp_cut_10", "map", "recip_rank", "err_10", "precision_10")
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
    asked = list(dict.fromkeys([*metrics, *(f"{curve_metric(metrics)}_{k}" for k in CUTOFFS)]))
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
    table = JudgedTable.of(judged, metrics, blank)
    means = {name: float(column.mean()) for name, column in zip(judged, table.headline.T, strict=True)}
    order = sorted(judged, key=lambda name: -means[name])
    table = JudgedTable.of({name: judged[name] for name in order}, metrics, blank)
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


def _pairs(order: Sequence[str], table: JudgedTable) -> tuple[Figures, list[Pair]]:
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
    table: JudgedTable,
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
