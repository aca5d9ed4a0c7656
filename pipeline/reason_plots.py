"""What one ranker's scores rest on, as a picture: the SHAP summary (Lundberg and Lee 2017) of a sample of rows."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.plots import COLOURS, GREY, canvas, shortened
from pipeline.reasons import Reasons

TOP_FEATURES = 15
_LOW_HIGH = LinearSegmentedColormap.from_list("low to high", [COLOURS[0], "#B9B4C7", COLOURS[1]])
_MISSING = "#9A9A9A"
_BINS = 90
_HALF_ROW = 0.40


def summary(reasons: Reasons, *, title: str) -> Figure:
    """A beeswarm: a row a feature, the most important at the top, and a dot for each sampled document.

    A dot lies at the feature's contribution to that document's score; its colour is the rank of the feature's value
    among the documents sampled (low to high), grey where it is missing. Dots that would cover each other are stacked.
    """
    order = np.argsort(-np.abs(reasons.contributions).mean(axis=0), kind="stable")[:TOP_FEATURES]
    figure, axes = canvas(title, 7.2, 1.9 + 0.34 * len(order))
    width = float(np.ptp(reasons.contributions[:, order])) or 1.0
    for row, feature in enumerate(order):
        x, values = reasons.contributions[:, feature], reasons.values[:, feature]
        y = row + _stacked(x, width)
        missing = np.isnan(values)
        axes.scatter(x[missing], y[missing], s=7, c=_MISSING, lw=0, rasterized=True)
        colours = _LOW_HIGH(_standing(values[~missing]))
        axes.scatter(x[~missing], y[~missing], s=7, c=colours, lw=0, rasterized=True)
    axes.axvline(0, color=GREY, lw=0.8, zorder=0)
    axes.set_yticks(range(len(order)), shortened([reasons.names[feature] for feature in order]), fontsize=9)
    axes.tick_params(axis="y", length=0)
    of_all = f"; the first {len(order)} of {len(reasons.names)} features" if len(order) < len(reasons.names) else ""
    axes.set(ylim=(len(order) - 0.5, -0.5))
    axes.set_xlabel(f"contribution to the score, {len(reasons.values):,} documents{of_all}\n{reasons.how}", fontsize=9)
    bar = figure.colorbar(ScalarMappable(cmap=_LOW_HIGH), ax=axes, aspect=30, shrink=0.8, pad=0.02)
    bar.set_ticks([0, 1], labels=["low", "high"], fontsize=8)
    bar.set_label("value of the feature (grey: missing)", fontsize=8, labelpad=-8)
    bar.outline.set_visible(False)
    return figure


def _standing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each value, from 0 to 1, equal values alike: outliers then do not take all of the colour."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    return np.asarray((below + (counts - 1) / 2)[places] / max(len(values) - 1, 1), dtype=np.float64)


def _stacked(x: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Offsets from the row, alternating up and down within each narrow column of equal x, the fullest filling it."""
    column = np.round(x / width * _BINS).astype(int)
    order = np.argsort(column, kind="stable")
    _, starts, counts = np.unique(column[order], return_index=True, return_counts=True)
    nth = np.arange(len(x)) - np.repeat(starts, counts)
    steps = np.where(nth % 2, -(nth + 1) // 2, nth // 2)
    offsets = np.empty(len(x))
    offsets[order] = steps * min(2 * _HALF_ROW / max(int(counts.max(initial=1)), 1), 0.08)
    return offsets
