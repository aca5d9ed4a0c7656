"""An evaluation as pictures. Each function returns a matplotlib Figure; `draw` writes them all as PNG.

Rows and lines grow the picture, never each other's way: thirty systems with long names are as legible as two.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from pipeline.evaluated import Evaluation
from pipeline.plots import COLOURS, DPI, GREY, bare, name_ends, room_for, shortened
from pipeline.query_kinds import NONE_RELEVANT

TOLD_APART = 7
"""Systems that get a colour of their own; where there are more, only the best of them do."""
LIGHT = "#BDBDBD"
_KINDS = {"length": "length of the query", "form": "form of the query", "relevant": "number of relevant documents"}
_WIN, _LOSS = COLOURS[0], COLOURS[1]


def draw(evaluation: Evaluation, folder: Path, *, dataset: str) -> None:
    """Write every plot that `evaluation` has figures for into `folder`, made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in _all(evaluation, dataset):
        figure.savefig(folder / f"{name}.png", dpi=DPI)


def _all(evaluation: Evaluation, dataset: str) -> Iterator[tuple[str, Figure]]:
    if evaluation.pairs:
        yield "critical_difference", critical_difference(evaluation, dataset=dataset)
        yield "wins_ties_losses", wins_ties_losses(evaluation, dataset=dataset)
    if evaluation.systems[0].ndcg_by_k:
        yield "ndcg_by_k", ndcg_by_k(evaluation, dataset=dataset)
    for kind in dict.fromkeys(group.kind for group in evaluation.groups if group.group != NONE_RELEVANT):
        yield f"by_{kind}", by_kind(evaluation, kind, dataset=dataset)


def critical_difference(evaluation: Evaluation, *, dataset: str) -> Figure:
    """Mean ranks over the queries, a row a system, and bars that join those that cannot be told apart.

    Demšar 2006, figure 1, turned on its side for the names. His bars span Nemenyi's critical distance; here they are
    the maximal sets without a significant pair (randomisation test, Holm over all pairs), a dot on each member:
    Nemenyi's verdict on a pair depends on which other systems are in the pool (Benavoli, Corani and Mangili 2016), and
    its variance knows no ties, of which figures a query are full.
    """
    systems = sorted(evaluation.systems, key=lambda system: system.mean_rank)
    rows = {system.name: row for row, system in enumerate(systems)}
    names = shortened([system.shown for system in systems])
    width = 7.2 + 0.14 * max(0, len(evaluation.cliques) - 6)
    figure = Figure(figsize=(width + room_for(names), 2.0 + 0.24 * len(systems)), layout="constrained")
    title = f"Mean rank by {evaluation.metric}; bars join systems that do not differ significantly"
    _titled(figure, title, evaluation, dataset)
    share = min(0.16 + 0.045 * len(evaluation.cliques), 0.9)
    ranks, bars = figure.subplots(1, 2, sharey=True, width_ratios=(1, share))
    bare(ranks)
    ranks.hlines(list(rows.values()), 1, [system.mean_rank for system in systems], color="#E3E3E3", lw=1.2)
    ranks.plot([system.mean_rank for system in systems], list(rows.values()), "o", color=COLOURS[0], ms=6)
    for row, system in enumerate(systems):
        text = f"{system.mean_rank:.2f}"
        ranks.annotate(text, (system.mean_rank, row), (6, 0), textcoords="offset points", va="center", fontsize=8)
    _name_rows(ranks, names)
    # Room at the right for the last figure.
    last = 1 + 1.17 * (systems[-1].mean_rank - 1)
    ranks.set(xlabel="mean rank (1: best on every query)", xlim=(1, last), ylim=(len(systems) - 0.4, -0.6))
    for column, members in enumerate(sorted(sorted(rows[name] for name in clique) for clique in evaluation.cliques)):
        bars.plot([column, column], [members[0], members[-1]], color="black", lw=2.2, solid_capstyle="round")
        bars.plot([column] * len(members), members, "o", color="black", ms=4.5)
    bars.set(xlim=(-0.7, max(len(evaluation.cliques), 1) - 0.3))
    bars.set_axis_off()
    friedman = evaluation.friedman
    said = "" if friedman is None else f"Friedman: χ² = {friedman.statistic:.4g}, p {_p(friedman.p_value)}; "
    _foot(figure, f"{said}pairs: randomisation test on the mean, Holm-corrected, level .05")
    return figure


def ndcg_by_k(evaluation: Evaluation, *, dataset: str) -> Figure:
    """Mean NDCG at each cutoff with its 95 % interval, a line a system; beyond seven the rest is grey."""
    named, rest = evaluation.systems[:TOLD_APART], evaluation.systems[TOLD_APART:]
    names = shortened([system.shown for system in named])
    exponential = evaluation.metric.startswith("ndcg_exp_cut")
    figure = Figure(figsize=(7.2 + room_for(names), 4.6), layout="constrained")
    _titled(figure, f"NDCG by cutoff, {'exponential' if exponential else 'linear'} gain", evaluation, dataset)
    axes = figure.subplots()
    bare(axes)
    for system in rest:
        cutoffs, means = list(system.ndcg_by_k), [mean for mean, _, _ in system.ndcg_by_k.values()]
        axes.plot(cutoffs, means, color=LIGHT, lw=0.9, zorder=1)
    ends = {}
    for place, system in enumerate(named):
        cutoffs, colour = list(system.ndcg_by_k), COLOURS[place]
        mean, low, high = np.array(list(system.ndcg_by_k.values())).T
        axes.fill_between(cutoffs, low, high, color=colour, alpha=0.10, lw=0, zorder=2)
        axes.plot(cutoffs, mean, color=colour, marker="o", ms=3.5, lw=1.6, zorder=3)
        ends[names[place]] = (float(mean[-1]), colour)
    cutoffs = list(named[0].ndcg_by_k)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(cutoffs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set(xlabel="cutoff k (documents, log scale)", ylabel=f"mean NDCG@k ({evaluation.split})")
    axes.grid(axis="y", color="#E3E3E3")
    name_ends(axes, cutoffs[-1], ends, bold=names[0])
    others = f"; grey: the other {len(rest)}" if rest else ""
    _foot(figure, f"bands: 95 % bootstrap intervals over queries{others}")
    return figure


def wins_ties_losses(evaluation: Evaluation, *, dataset: str) -> Figure:
    """On how many queries the best system is better than, equal to and worse than each other, a bar each."""
    best = evaluation.systems[0]
    others = evaluation.systems[1:]
    pairs = [evaluation.pair(best.name, system.name) for system in others]
    names = shortened([system.shown for system in others])
    figure = Figure(figsize=(7.2 + room_for(names), 2.0 + 0.27 * len(pairs)), layout="constrained")
    _titled(figure, f"{shortened([best.shown], 30)[0]} against each other, by {evaluation.metric}", evaluation, dataset)
    axes = figure.subplots()
    bare(axes)
    left = np.zeros(len(pairs))
    parts = (
        ("wins", [pair.wins for pair in pairs], _WIN, "white"),
        ("ties", [pair.ties for pair in pairs], "#DDDDDD", "black"),
        ("losses", [pair.losses for pair in pairs], _LOSS, "white"),
    )
    for label, counts, colour, ink in parts:
        bars = axes.barh(range(len(pairs)), counts, left=left, color=colour, height=0.74, label=label)
        wide = [f"{count}" if count > 0.04 * evaluation.judged else "" for count in counts]
        axes.bar_label(bars, wide, label_type="center", color=ink, fontsize=8)
        left += counts
    for row, pair in enumerate(pairs):
        star = "*" if pair.p_holm < 0.05 else " "
        text = f"{pair.difference:+.4f}{star}"
        axes.annotate(text, (left[row], row), (5, 0), textcoords="offset points", va="center", fontsize=8, color=GREY)
    _name_rows(axes, names)
    axes.set(xlabel="queries", ylim=(len(pairs) - 0.4, -0.6), xlim=(0, evaluation.judged * 1.16))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    axes.set_title("mean difference; * p < .05, Holm-corrected", fontsize=8, color=GREY, loc="right")
    return figure


def by_kind(evaluation: Evaluation, kind: str, *, dataset: str) -> Figure:
    """Mean and 95 % interval of each system on each group of queries; of more than seven systems, the best seven.

    The queries with nothing relevant are no group here: what they count is a convention, the same for all.
    """
    groups = [group for group in evaluation.groups if group.kind == kind and group.group != NONE_RELEVANT]
    systems = evaluation.systems[:TOLD_APART]
    names = shortened([system.shown for system in systems])
    height = 1.9 + len(groups) * (0.26 + 0.13 * len(systems))
    figure = Figure(figsize=(7.2, height), layout="constrained")
    _titled(figure, f"{evaluation.metric} by {_KINDS.get(kind, kind)}", evaluation, dataset)
    axes = figure.subplots()
    bare(axes)
    band = 0.72
    for place, system in enumerate(systems):
        offset = band * ((place + 0.5) / len(systems) - 0.5)
        y = np.arange(len(groups)) + offset
        means = np.array([group.means[system.name] for group in groups])
        low, high = np.array([group.ci95[system.name] for group in groups]).T
        axes.hlines(y, low, high, color=COLOURS[place], lw=1.6)
        axes.plot(means, y, "o", color=COLOURS[place], ms=4.5, label=names[place])
    for edge in np.arange(len(groups) - 1) + 0.5:
        axes.axhline(edge, color="#E3E3E3", lw=0.8)
    _name_rows(
        axes, [f"{group.group}\n{group.queries:,} {'query' if group.queries == 1 else 'queries'}" for group in groups]
    )
    axes.set(xlabel=f"mean {evaluation.metric}", ylim=(len(groups) - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(7))
    figure.legend(
        loc="outside lower center", ncols=max(1, min(4, 84 // (max(map(len, names)) + 6))), frameon=False, fontsize=8
    )
    return figure


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.tick_params(axis="y", length=0)


def _titled(figure: Figure, title: str, evaluation: Evaluation, dataset: str) -> None:
    what = f"{dataset}, {evaluation.split}: {evaluation.judged:,} queries, blank queries: {evaluation.blank}"
    labelled = any(system.label for system in evaluation.systems)
    said = "\n(A, B, …: candidates differ; 1, 2, …: features differ)" if labelled else ""
    figure.suptitle(f"{title}\n{what}{said}", x=0.02, ha="left", fontsize=11)


def _foot(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=8, color=GREY, x=0.02, ha="left")


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"= {value:.3f}"
