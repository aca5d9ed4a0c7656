"""Judge a TREC run offline, alone or against another on the same queries: means, intervals, paired tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import polars as pl
from rich.table import Table

from retrieval.metrics import Blank, fill_blank, mean, per_query
from retrieval.significance import bootstrap_ci, holm, randomisation_test
from retrieval.trec import read_qrels, read_run

DEFAULT = ("ndcg_cut_10", "ndcg_exp_cut_10", "recip_rank", "map", "recall_100")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """The run against another: per metric the other's mean, and run − other with its 95 % interval and p-value.

    `p_value` is the two-sided randomisation test's, Holm-corrected over the metrics.
    """

    metrics: dict[str, float]
    difference: dict[str, float]
    ci95: dict[str, Interval]
    p_value: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """A run judged: per metric its mean over `queries` queries and the 95 % bootstrap interval of that mean.

    `blank` names what each of the `blank_queries` (nothing relevant is judged for them) counts in every figure here;
    under "skip" they are null in `per_query` (qid and one column a metric) and in no mean.
    """

    blank: Blank
    queries: int
    blank_queries: int
    metrics: dict[str, float]
    ci95: dict[str, Interval]
    per_query: pl.DataFrame
    against: Comparison | None = None

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes: every figure but the per-query ones."""
        judged: dict[str, Any] = {
            "blank": self.blank,
            "queries": self.queries,
            "blank_queries": self.blank_queries,
            "metrics": self.metrics,
            "ci95": {name: list(interval) for name, interval in self.ci95.items()},
        }
        if self.against is not None:
            judged["against"] = {
                "metrics": self.against.metrics,
                "difference": self.against.difference,
                "ci95": {name: list(interval) for name, interval in self.against.ci95.items()},
                "p_value": self.against.p_value,
            }
        return judged


def score(
    run_path: str | PathLike[str],
    qrels_path: str | PathLike[str],
    *,
    metrics: Sequence[str] = DEFAULT,
    against: str | PathLike[str] | None = None,
    blank: Blank = "zero",
) -> Scores:
    """Judge the TREC run at `run_path` by the judgements at `qrels_path` (TREC or BEIR), over all queries judged.

    With `against`, a second run, the two are compared query by query; a positive difference says that the first is
    better. Raises InputError for a file, metric or policy that cannot be used; see `retrieval.trec` and `.metrics`.
    """
    metrics = list(dict.fromkeys(metrics))
    qrels = read_qrels(qrels_path)
    raw = per_query(read_run(run_path), qrels, metrics)
    means = mean(raw, blank)
    figures = fill_blank(raw, blank)
    relevant = qrels.group_by("qid").agg(pl.col("relevance").max() > 0)["relevance"]
    return Scores(
        blank=blank,
        queries=raw.height,
        blank_queries=int((~relevant).sum()),
        metrics=means,
        ci95={name: bootstrap_ci(figures[name].drop_nulls()) for name in metrics},
        per_query=figures,
        against=None if against is None else _compare(figures, per_query(read_run(against), qrels, metrics), blank),
    )


def _compare(figures: pl.DataFrame, raw: pl.DataFrame, blank: Blank) -> Comparison:
    # Row by row the same queries: both frames follow the qrels.
    others = fill_blank(raw, blank)
    names = figures.columns[1:]
    differences = {name: (figures[name] - others[name]).drop_nulls() for name in names}
    p_values = holm([randomisation_test(differences[name]) for name in names])
    return Comparison(
        metrics=mean(raw, blank),
        difference={name: float(differences[name].to_numpy().mean()) for name in names},
        ci95={name: bootstrap_ci(differences[name]) for name in names},
        p_value=dict(zip(names, p_values, strict=True)),
    )


def render(scores: Scores) -> Table:
    """The figures as a table for the terminal, one metric a row; the caption names what a blank query counted."""
    counted = {"zero": "counted 0", "one": "counted 1", "skip": "left out"}[scores.blank]
    table = Table(caption=f"{scores.queries} queries; {scores.blank_queries} with nothing relevant {counted}")
    other = scores.against
    table.add_column("metric")
    for heading in ("mean", "95 %", *(("against", "difference", "95 %", "p (Holm)") if other else ())):
        table.add_column(heading, justify="right")
    for name, value in scores.metrics.items():
        cells = [name, f"{value:.4f}", _interval(scores.ci95[name])]
        if other:
            cells += [f"{other.metrics[name]:.4f}", f"{other.difference[name]:+.4f}"]
            cells += [_interval(other.ci95[name]), f"{other.p_value[name]:.2g}"]
        table.add_row(*cells)
    return table


def _interval(interval: Interval) -> str:
    return f"{interval[0]:.4f} – {interval[1]:.4f}"
