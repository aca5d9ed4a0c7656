"""A search as pictures: how it went, and which settings mattered."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.plots import COLOURS, DPI, GREY, canvas
from pipeline.tune import Tuned


def draw(tuned: Tuned, folder: Path) -> None:
    """Write every plot that `tuned` has figures for into `folder`, made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    history(tuned).savefig(folder / "history.png", dpi=DPI)
    if tuned.importance:
        importance(tuned).savefig(folder / "setting_importance.png", dpi=DPI)


def history(tuned: Tuned) -> Figure:
    """Each trial's value in order, the best so far as a line.

    A pruned trial stands as far from the first one's value as it stood on the folds that it had: folds are not equally
    hard, so their bare mean would say nothing.
    """
    figure, axes = canvas(_title(tuned, "Search history"), 7.2, 4.2)
    complete = [(trial.number, trial.value) for trial in tuned.trials if trial.value is not None]
    at, values = (np.array(column, dtype=float) for column in zip(*complete, strict=True))
    pruned = [trial for trial in tuned.trials if trial.state == "pruned"]
    if pruned:
        first = np.array(tuned.trials[0].folds)
        ahead = [float(np.mean(trial.folds) - first[: len(trial.folds)].mean()) for trial in pruned]
        numbers = [trial.number for trial in pruned]
        axes.plot(numbers, values[0] + ahead, "x", color=GREY, ms=6, label="pruned (by the folds it had)")
    axes.plot(at, values, "o", color=COLOURS[0], ms=5, label="complete")
    axes.plot(at, np.maximum.accumulate(values), color=COLOURS[1], lw=1.8, drawstyle="steps-post", label="best so far")
    axes.axhline(values[0], color="black", lw=1, ls=":", label="as it is (first trial)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel=f"{tuned.metric}, {tuned.folds}-fold")
    axes.grid(axis="y", color="#E3E3E3")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def importance(tuned: Tuned) -> Figure:
    """The share of each setting in the variance of the value, the largest at the top."""
    figure, axes = canvas(_title(tuned, "Which settings mattered"), 7.2, 1.8 + 0.26 * len(tuned.importance))
    shares = sorted(tuned.importance.items(), key=lambda item: item[1], reverse=True)
    bars = axes.barh([name for name, _ in shares], [share for _, share in shares], color=COLOURS[0], height=0.7)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8, color=GREY)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.02)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.set_xlabel(f"share of the variance over {tuned.count('complete')} complete trials (fANOVA)")
    return figure


def _title(tuned: Tuned, title: str) -> str:
    return f"{title}\n{tuned.study}: {tuned.ranker}, {tuned.queries:,} queries, blank queries: {tuned.blank}"
