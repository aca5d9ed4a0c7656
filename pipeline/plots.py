"""The leaderboard as pictures. Each function returns a matplotlib Figure; `draw` writes them all as PNG."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from pipeline.results import Leaderboard, System

# Okabe and Ito 2008: told apart with every common colour blindness. Their yellow is left out: too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
GREY = "#6B6B6B"
TOP_FEATURES = 20
DPI = 150
LONGEST = 56
"""Characters of a name that a picture has room for."""


def draw(board: Leaderboard, folder: Path) -> None:
    """Write every plot that `board` has the figures for into `folder`, made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in _all(board):
        figure.savefig(folder / f"{name}.png", dpi=DPI)


def _all(board: Leaderboard) -> Iterator[tuple[str, Figure]]:
    yield "ndcg_by_k", ndcg_by_k(board)
    yield "latency", latency(board)
    for system in board.systems:
        if system.importance:
            yield f"importance_{system.name}", importance(board, system)
        if system.curve is not None and system.curve.width > 1 and system.curve.height:
            yield f"learning_curve_{system.name}", learning_curve(board, system)


def ndcg_by_k(board: Leaderboard) -> Figure:
    """Mean NDCG at each cutoff, a line a system, named at its end; the system put forward is the thick one."""
    figure, axes = canvas(_title(board, "NDCG by cutoff"), 7.2, 4.4)
    cutoffs = sorted({k for system in board.systems for k in system.ndcg_by_k})
    ends: dict[str, tuple[float, str]] = {}
    for place, system in enumerate(board.systems):
        points = sorted(system.ndcg_by_k.items())
        if not points:
            continue
        colour = COLOURS[place % len(COLOURS)]
        line = LINES[place // len(COLOURS) % len(LINES)]
        chosen = system.name == board.selected
        axes.plot(*zip(*points, strict=True), line, color=colour, marker="o", ms=4, lw=2.8 if chosen else 1.5)
        ends[system.name] = (points[-1][1], colour)
    if not cutoffs:
        return figure
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(cutoffs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set(xlabel="cutoff k (documents, log scale)", ylabel=f"mean NDCG@k ({board.split})")
    axes.grid(axis="y", color="#E3E3E3")
    name_ends(axes, cutoffs[-1], ends, bold=board.selected)
    return figure


def importance(board: Leaderboard, system: System) -> Figure:
    """The features that move the score of a learned system the most, at most 20, the largest at the top."""
    return importance_bars(_validation_title(board, system, "what its score rests on"), system.importance)


def importance_bars(title: str, contributions: Mapping[str, float]) -> Figure:
    """Feature → mean absolute contribution as bars, the largest at the top."""
    top = sorted(contributions.items(), key=lambda item: item[1], reverse=True)[:TOP_FEATURES]
    figure, axes = canvas(title, 7.2, 1.6 + 0.24 * len(top))
    bars = axes.barh([name for name, _ in top], [value for _, value in top], color=COLOURS[0], height=0.7)
    axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=8, color=GREY)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.02)
    of_all = f", {len(top)} of {len(contributions)} features" if len(contributions) > len(top) else ""
    axes.set_xlabel(f"mean |contribution| to the score{of_all}")
    axes.tick_params(axis="y", length=0, labelsize=9)
    return figure


def learning_curve(board: Leaderboard, system: System) -> Figure:
    """What training logged, a panel a metric (they share no unit), a dot where validation NDCG was best."""
    curve = system.curve if system.curve is not None else pl.DataFrame({"step": []})
    return curve_panels(_validation_title(board, system, "learning curve"), curve)


def curve_panels(title: str, curve: pl.DataFrame) -> Figure:
    """`step` against every other column of `curve`, at least one, a panel each."""
    names = curve.drop("step").columns
    figure = Figure(figsize=(7.2, 1.2 + 1.9 * len(names)), layout="constrained")
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    panels: Sequence[Axes] = np.ravel(figure.subplots(len(names), 1, sharex=True, squeeze=False)).tolist()
    for place, (axes, name) in enumerate(zip(panels, names, strict=True)):
        points = curve.select("step", name).drop_nulls()
        steps, values = points["step"].to_numpy(), points[name].to_numpy()
        axes.plot(steps, values, color=COLOURS[place % len(COLOURS)], lw=1.8, marker="o" if len(steps) == 1 else None)
        axes.set_ylabel(name.replace("_", " "), fontsize=9)
        bare(axes)
        if "ndcg" in name and "train" not in name and len(steps):
            best = int(np.argmax(values))
            axes.plot(steps[best], values[best], "o", color="black", ms=6)
            text = f"best {values[best]:.4f}, step {steps[best]}"
            side = "right" if best > len(steps) / 2 else "left"
            axes.annotate(text, (steps[best], values[best]), (0, -18), textcoords="offset points", ha=side, fontsize=9)
    panels[-1].set_xlabel("step (boosting round or epoch)")
    return figure


def latency(board: Leaderboard) -> Figure:
    """Where the time of a query goes, a bar a system, stacked in the order of its path."""
    figure, axes = canvas(_title(board, "Time a query, by stage"), 7.2, 1.7 + 0.36 * len(board.systems))
    paths = [{_shared_name(system, stage): ms for stage, ms in system.stage_ms.items()} for system in board.systems]
    names = [system.name for system in board.systems]
    left = np.zeros(len(names))
    for place, stage in enumerate(dict.fromkeys(stage for path in paths for stage in path)):
        widths = np.array([path.get(stage, 0.0) for path in paths])
        colour = COLOURS[place % len(COLOURS)]
        axes.barh(names, widths, left=left, label=stage, color=colour, height=0.7, edgecolor="white", lw=0.8)
        left += widths
    for place, total in enumerate(left):
        text = f"{total:.3g} ms"
        axes.annotate(text, (total, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5, color=GREY)
    axes.invert_yaxis()
    axes.margins(x=0.14, y=0.02)
    axes.set_xlabel("milliseconds a query (wall time, in batch)")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def _shared_name(system: System, stage: str) -> str:
    """The rankers' own stages share one name, and so one colour: no two of them are in one bar."""
    return system.stage if stage == system.name and system.stage in ("rank", "rerank") else stage


def canvas(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one plot, `width` × `height` inches, its title at the left."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    axes = figure.subplots()
    bare(axes)
    return figure, axes


def _title(board: Leaderboard, title: str) -> str:
    return f"{title}\n{board.dataset}, {board.split}: {board.queries:,} queries, blank queries: {board.blank}"


def _validation_title(board: Leaderboard, system: System, title: str) -> str:
    queries = f": {system.per_query['valid'].height:,} queries" if "valid" in system.per_query else ""
    return f"{system.name}: {title}\n{board.dataset}, validation{queries}"


def shortened(names: Sequence[str], longest: int = LONGEST) -> list[str]:
    """Each name in at most `longest` characters, its middle left out; whole where two would then be the same."""
    half = (longest - 1) // 2
    short = [name if len(name) <= longest else f"{name[:half]}…{name[-half:]}" for name in names]
    return [name if short.count(brief) > 1 else brief for name, brief in zip(names, short, strict=True)]


def room_for(names: Sequence[str]) -> float:
    """Inches that a picture needs beyond its usual width for the longest of `names`."""
    return 0.072 * max(0, max(map(len, names), default=0) - 28)


def bare(axes: Axes) -> None:
    """Take the frame's top and right away, and make the ticks' text small."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def name_ends(axes: Axes, x: float, ends: Mapping[str, tuple[float, str]], bold: str) -> None:
    """Write each name beside the end of its line, moved apart where lines end close to each other."""
    low, high = axes.get_ylim()
    names = sorted(ends, key=lambda name: ends[name][0])
    apart = apart_by([ends[name][0] for name in names], (high - low) * 0.052)
    axes.set_ylim(min(low, apart[0] - (high - low) * 0.03), max(high, apart[-1] + (high - low) * 0.03))
    for name, y in zip(names, apart, strict=True):
        value, colour = ends[name]
        axes.annotate(
            name,
            (x, value),
            xytext=(1.04, y),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            fontweight="bold" if name == bold else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 1.2, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 3},
            annotation_clip=False,
        )


def apart_by(values: Sequence[float], gap: float) -> list[float]:
    """Move ascending `values` as little as is needed (least squares) for neighbours to lie at least `gap` apart.

    With the gaps taken out it is isotonic regression, solved by pooling adjacent violators (Ayer et al. 1955).
    """
    blocks: list[tuple[float, int]] = []
    for place, value in enumerate(values):
        mean, size = value - place * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    flat = [mean for mean, size in blocks for _ in range(size)]
    return [mean + place * gap for place, mean in enumerate(flat)]
