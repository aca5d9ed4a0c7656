from itertools import pairwise

import matplotlib.image
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from pipeline import plots
from pipeline.results import Leaderboard, System

EARLY = ("bm25", "dense", "fused")


def system(name: str, height: float) -> System:
    path = dict.fromkeys(EARLY, 2.0) | {"features": 1.0, name: 0.5} if name not in EARLY else {name: 2.0}
    curve = pl.DataFrame(
        {"step": [1, 2, 3, 4], "loss": [3.0, 2.0, 1.5, 1.4], "valid_ndcg_cut_10": [0.2, 0.5, 0.4, None]}
    )
    frame = pl.DataFrame({"qid": ["a", "b"], "ndcg_cut_10": [height, height]})
    learned = name not in EARLY
    return System(
        name=name,
        stage="rank" if learned else "retrieve",
        key=name,
        params={},
        per_query={"valid": frame, "test": frame},
        metrics={"ndcg_cut_10": height},
        ci95=(height, height),
        ms_per_query=sum(path.values()),
        stage_ms=path,
        ndcg_by_k={1: height - 0.1, 10: height, 100: height + 0.1},
        curve=curve if learned else None,
        importance={f"feature_{number:02d}": float(number) for number in range(30)} if learned else {},
    )


def board(*names: str, apart: float = 0.001) -> Leaderboard:
    systems = [system(name, 0.5 + apart * place) for place, name in enumerate(names)]
    return Leaderboard("scifact", "f" * 64, "test", "zero", 1300, systems, names[0], names[-1], {})


def texts(figure: Figure) -> set[str]:
    FigureCanvasAgg(figure).draw()
    return {text.get_text() for text in figure.findobj(Text) if text.get_visible()}


def extents(figure: Figure, boxes: list[Text]) -> list[Bbox]:
    """Where the words themselves lie, in pixels, without an annotation's line."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [Text.get_window_extent(text, canvas.get_renderer()) for text in boxes]


def overlapping(figure: Figure, boxes: list[Text]) -> list[tuple[int, int]]:
    """Which pairs of texts lie on each other by more than a pixel."""
    found = [box.padded(-1) for box in extents(figure, boxes)]
    return [(i, j) for i in range(len(found)) for j in range(i) if found[i].overlaps(found[j])]


def names_of(figure: Figure) -> list[Annotation]:
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


def test_every_plot_is_written_and_shows_something(tmp_path):
    plots.draw(board("bm25", "fused", "lambdamart"), tmp_path / "plots")
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    of_one = ["importance_lambdamart.png", "latency.png", "learning_curve_lambdamart.png", "ndcg_by_k.png"]
    assert drawn == of_one
    for name in drawn:
        pixels = matplotlib.image.imread(tmp_path / "plots" / name)[..., :3]
        assert min(pixels.shape[:2]) > 250, name
        assert len(np.unique((pixels * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 30, name
        assert 0.01 < (pixels < 0.99).any(axis=-1).mean() < 0.6, name


def test_titles_say_what_was_judged():
    of_all = board("bm25", "lambdamart")
    assert "NDCG by cutoff\nscifact, test: 1,300 queries, blank queries: zero" in texts(plots.ndcg_by_k(of_all))
    assert any("1,300 queries" in text for text in texts(plots.latency(of_all)))
    learned = of_all.system("lambdamart")
    for figure in (plots.importance(of_all, learned), plots.learning_curve(of_all, learned)):
        assert any(text.endswith("scifact, validation: 2 queries") for text in texts(figure))


@pytest.mark.parametrize("count", [1, 6, 16])
def test_systems_are_named_beside_their_lines_without_overlap(count):
    names = [f"system_{number}" for number in range(count)]
    figure = plots.ndcg_by_k(board(*names, apart=1e-5))
    labels = names_of(figure)
    assert sorted(label.get_text() for label in labels) == sorted(names)
    assert overlapping(figure, labels) == []
    canvas = figure.bbox
    inside = [canvas.x0 <= box.x0 and box.x1 <= canvas.x1 and canvas.y0 <= box.y0 for box in extents(figure, labels)]
    assert all(inside)
    lines = figure.axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == count


def test_the_lines_are_the_figures():
    figure = plots.ndcg_by_k(board("bm25", "fused", apart=0.1))
    axes = figure.axes[0]
    assert [line.get_xydata().tolist() for line in axes.get_lines()] == [
        [[1, 0.4], [10, 0.5], [100, 0.6]],
        [[1, 0.5], [10, 0.6], [100, 0.7]],
    ]
    assert {"1", "10", "100"} <= texts(figure)


def test_importance_shows_the_largest_twenty_first():
    learned = board("bm25", "lambdamart")
    figure = plots.importance(learned, learned.system("lambdamart"))
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == list(range(29, 9, -1))
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["feature_29", "feature_28"]
    assert axes.yaxis_inverted()
    assert overlapping(figure, axes.get_yticklabels()) == []


def test_a_curve_has_a_panel_a_metric_and_marks_the_best_validation():
    learned = board("bm25", "ranknet")
    figure = plots.learning_curve(learned, learned.system("ranknet"))
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "valid ndcg cut 10"]
    assert "best 0.5000, step 2" in texts(figure)
    assert figure.axes[1].get_lines()[0].get_xydata().tolist() == [[1, 0.2], [2, 0.5], [3, 0.4]]


def test_latency_bars_add_up_and_rankers_share_a_colour():
    of_all = board("bm25", "pointwise", "lambdamart")
    figure = plots.latency(of_all)
    bars = figure.axes[0].patches
    ends = [max(bar.get_x() + bar.get_width() for bar in bars if round(bar.get_y() + 0.35) == row) for row in range(3)]
    assert ends == [system.ms_per_query for system in of_all.systems]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["bm25", "dense", "fused", "features", "rank"]
    assert {"2 ms", "7.5 ms"} <= texts(figure)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12).map(sorted), st.floats(0.01, 2))
def test_moved_apart_by_the_gap_in_order_and_no_further_than_needed(values, gap):
    moved = plots.apart_by(values, gap)
    assert all(after - before >= gap - 1e-9 for before, after in pairwise(moved))
    # Least squares: the sum of the moves is 0, and nothing moves where there is room.
    assert sum(moved) == pytest.approx(sum(values), abs=1e-6)
    if all(after - before >= gap for before, after in pairwise(values)):
        assert moved == pytest.approx(values, abs=1e-9)
