"""An evaluation as tables: frames for files, and rich tables that fit a terminal of eighty columns whole."""

import polars as pl
from rich import box
from rich.table import Table

from pipeline.evaluated import Evaluation, Interval, SystemFigures
from pipeline.results import p_text

ALL_PAIRS = 6
"""Systems up to which every pair is shown; beyond, the best against each other."""
NARROW, WIDE = 80, 110
_BLANK = {"zero": "counts 0", "one": "counts 1", "skip": "is left out"}


def systems_frame(evaluation: Evaluation) -> pl.DataFrame:
    """A row a system: name, label, fingerprints, and each metric under each blank policy with its interval."""
    return pl.DataFrame([_row(system) for system in evaluation.systems], infer_schema_length=None)


def _row(system: SystemFigures) -> dict[str, str | float | int | None]:
    row: dict[str, str | float | int | None] = {
        "system": system.name,
        "label": system.label,
        "mean_rank": system.mean_rank,
        "answered": system.answered,
        "candidates": system.candidates,
        "features": system.features,
    }
    for metric, value in system.metrics.items():
        low, high = value.ci95
        row |= {f"{metric}.zero": value.zero, f"{metric}.one": value.one, f"{metric}.skip": value.skip}
        row |= {f"{metric}.low": low, f"{metric}.high": high}
    return row


def pairs_frame(evaluation: Evaluation) -> pl.DataFrame:
    """A row a pair, the better system first."""
    rows = [
        {
            "one": pair.one,
            "other": pair.other,
            "difference": pair.difference,
            "low": pair.ci95[0],
            "high": pair.ci95[1],
            "p_value": pair.p_value,
            "p_holm": pair.p_holm,
            "wins": pair.wins,
            "ties": pair.ties,
            "losses": pair.losses,
        }
        for pair in evaluation.pairs
    ]
    return pl.DataFrame(rows)


def groups_frame(evaluation: Evaluation) -> pl.DataFrame:
    """A row a group of queries and system."""
    rows = [
        {
            "kind": group.kind,
            "group": group.group,
            "queries": group.queries,
            "system": system,
            "mean": mean,
            "low": group.ci95[system][0],
            "high": group.ci95[system][1],
        }
        for group in evaluation.groups
        for system, mean in group.means.items()
    ]
    return pl.DataFrame(rows)


def systems_table(evaluation: Evaluation, *, dataset: str, width: int = NARROW) -> Table:
    """Every system with the deciding metric, its interval and mean rank; as many other metrics as `width` has room."""
    e = evaluation
    title = f"{dataset}, {e.split}: {e.queries:,} queries, {e.blank_queries:,} with nothing relevant"
    caption = f"best first by {e.metric}; a query with nothing relevant {_BLANK[e.blank]}"
    table = Table(title=title, caption="; ".join([caption, *e.notes]), box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("system", overflow="fold", min_width=12)
    headings = [e.metric, "95 %", "mean rank"]
    room = width - 24 - 14 - len(e.metric) - 12
    others = [metric for metric in e.metrics if metric != e.metric]
    shown = [metric for place, metric in enumerate(others) if sum(len(m) + 2 for m in others[: place + 1]) <= room]
    for heading in [*headings, *shown]:
        table.add_column(heading, justify="right", no_wrap=True)
    for system in e.systems:
        means = [_mean(system, metric, e.blank) for metric in (e.metric, *shown)]
        interval = _interval(system.metrics[e.metric].ci95)
        table.add_row(system.shown, means[0], interval, f"{system.mean_rank:.2f}", *means[1:])
    return table


def conventions_table(evaluation: Evaluation, *, dataset: str) -> Table:
    """One metric under each policy for queries with nothing relevant, for every NDCG evaluated."""
    title = f"{dataset}, {evaluation.split}: NDCG by convention"
    caption = "ndcg_cut: linear gain (trec_eval); ndcg_exp_cut: 2^relevance − 1 (LightGBM); what a blank query counts"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("system", overflow="fold", min_width=12)
    table.add_column("metric", no_wrap=True)
    for policy in ("zero", "one", "skip"):
        table.add_column(policy, justify="right", no_wrap=True)
    ndcgs = [metric for metric in evaluation.metrics if metric.startswith("ndcg")]
    for system in evaluation.systems:
        for metric in ndcgs:
            value = system.metrics[metric]
            cells = ["–" if mean is None else f"{mean:.4f}" for mean in (value.zero, value.one, value.skip)]
            table.add_row(system.shown if metric == ndcgs[0] else "", metric, *cells)
    return table


def pairs_table(evaluation: Evaluation, *, every: bool = False) -> Table:
    """Every pair of few systems; of more than six, the best against each other, unless `every`."""
    best = evaluation.systems[0]
    whole = every or len(evaluation.systems) <= ALL_PAIRS
    pairs = [pair for pair in evaluation.pairs if whole or pair.one == best.name]
    about = "" if whole else f"; the best against each other of all {len(evaluation.pairs)} pairs"
    caption = f"{evaluation.metric}; p: paired randomisation, Holm-corrected over {len(evaluation.pairs)} pairs{about}"
    table = Table(title="pair by pair", caption=caption, box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("better", overflow="fold", min_width=9)
    table.add_column("than", overflow="fold", min_width=9)
    for heading in ("difference", "95 %", "p", "win/tie/loss"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in pairs:
        cells = [evaluation.system(pair.one).shown, evaluation.system(pair.other).shown, f"{pair.difference:+.4f}"]
        cells += [_interval(pair.ci95, "+"), p_text(pair.p_holm), f"{pair.wins}/{pair.ties}/{pair.losses}"]
        table.add_row(*cells, style="bold" if pair.p_holm < 0.05 else None)
    return table


def groups_table(evaluation: Evaluation, *, width: int = NARROW) -> Table:
    """The best systems, as many as `width` has room for, on each group of queries."""
    systems = evaluation.systems[: max(2, (width - 34) // 15)]
    rest = len(evaluation.systems) - len(systems)
    caption = f"mean {evaluation.metric}" + (
        f"; the best {len(systems)} of {len(systems) + rest} systems" if rest else ""
    )
    table = Table(title="by kind of query", caption=caption, box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in ("kind", "group"):
        table.add_column(heading, no_wrap=True)
    table.add_column("queries", justify="right", no_wrap=True)
    for system in systems:
        table.add_column(system.shown, justify="right", overflow="fold", min_width=6)
    last = None
    for group in evaluation.groups:
        means = [f"{group.means[system.name]:.4f}" for system in systems]
        table.add_row(group.kind if group.kind != last else "", group.group, f"{group.queries:,}", *means)
        last = group.kind
    return table


def _mean(system: SystemFigures, metric: str, blank: str) -> str:
    value = system.metrics[metric]
    mean = {"zero": value.zero, "one": value.one, "skip": value.skip}[blank]
    return "–" if mean is None else f"{mean:.4f}"


def _interval(interval: Interval, sign: str = "") -> str:
    return f"{interval[0]:{sign}.3f} {interval[1]:{sign}.3f}"
