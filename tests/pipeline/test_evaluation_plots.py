import matplotlib.image
import numpy as np
import polars as pl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from pipeline import evaluation_plots, reason_plots
from pipeline.evaluation import Evaluation, evaluate
from pipeline.plots import importance_bars, shortened
from pipeline.reasons import Reasons, reasons_of

LONG = "lambdamart-with-truncation-at-rank-thirty-and-a-self-attention-scorer-seed"


def evaluation(systems: int, blank: str = "one") -> Evaluation:
    rng = np.random.default_rng(0)
    qids, docids = [f"q{n:03d}" for n in range(60)], [f"d{n:02d}" for n in range(25)]
    relevance = rng.choice([0, 1, 2], p=[0.8, 0.15, 0.05], size=1500)
    pairs = pl.DataFrame({"qid": np.repeat(qids, 25), "docid": docids * 60})
    qrels = pairs.with_columns(relevance=pl.Series(relevance, dtype=pl.Int32))
    runs = {}
    for number in range(systems):
        scores = relevance + rng.normal(0, 0.6 + 0.1 * number, 1500)
        name = f"{LONG}-{number:02d}" if number % 3 == 0 else f"system-{number:02d}"
        run = pairs.with_columns(score=pl.Series(scores, dtype=pl.Float32))
        runs[name] = run.filter(pl.col("docid") != "d03") if number == 0 else run
    queries = pl.DataFrame({"qid": qids, "query": ["a lens", "what is a lens in a telescope"] * 30})
    return evaluate(runs, qrels, metrics=("ndcg_exp_cut_10", "map"), queries=queries, blank=blank)


@pytest.fixture(scope="module", params=[2, 5, 30])
def of_many(request):
    return evaluation(request.param)


def rendered(figure: Figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def boxes(figure: Figure, texts: list[Text]) -> list:
    renderer = rendered(figure)
    return [Text.get_window_extent(text, renderer) for text in texts]


def words(figure: Figure) -> list[Text]:
    """Every text that is seen, but the empty ones and those outside of an axis's limits."""
    rendered(figure)
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    ticks = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _unseen(axis)}
    hidden = {id(text) for axes in figure.axes if not axes.axison for text in axes.findobj(Text)}
    return [text for text in found if id(text) not in ticks | hidden]


def _unseen(axis) -> list[Text]:
    low, high = sorted(axis.get_view_interval())
    return [
        label
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not low - 1e-9 <= tick.get_loc() <= high + 1e-9 or not label.get_visible()
    ]


def clashes(figure: Figure) -> list[tuple[str, str]]:
    texts = words(figure)
    found = [box.padded(-1) for box in boxes(figure, texts)]
    return [
        (texts[i].get_text(), texts[j].get_text())
        for i in range(len(found))
        for j in range(i)
        if found[i].overlaps(found[j])
    ]


def outside(figure: Figure) -> list[str]:
    edge, texts = figure.bbox.padded(2), words(figure)
    return [
        text.get_text()
        for text, box in zip(texts, boxes(figure, texts), strict=True)
        if not (edge.x0 <= box.x0 and box.x1 <= edge.x1 and edge.y0 <= box.y0 and box.y1 <= edge.y1)
    ]


@pytest.mark.parametrize(
    "plot",
    [
        evaluation_plots.critical_difference,
        evaluation_plots.ndcg_by_k,
        evaluation_plots.wins_ties_losses,
        lambda e, dataset: evaluation_plots.by_kind(e, "length", dataset=dataset),
        lambda e, dataset: evaluation_plots.by_kind(e, "relevant", dataset=dataset),
    ],
)
def test_no_words_overlap_or_leave_the_picture(of_many, plot):
    figure = plot(of_many, dataset="MQ2008, fold 1")
    assert clashes(figure) == []
    assert outside(figure) == []
    titles = [text.get_text() for text in words(figure)]
    assert any("MQ2008, fold 1, test: 60 queries, blank queries: one" in title for title in titles)


def test_every_plot_is_written_and_shows_something(tmp_path):
    evaluation_plots.draw(evaluation(3), tmp_path / "plots", dataset="mq2008")
    drawn = sorted(path.stem for path in (tmp_path / "plots").iterdir())
    kinds = ["by_form", "by_length", "by_relevant"]
    assert drawn == [*kinds, "critical_difference", "ndcg_by_k", "wins_ties_losses"]
    for path in (tmp_path / "plots").iterdir():
        pixels = matplotlib.image.imread(path)[..., :3]
        assert min(pixels.shape[:2]) > 250, path
        assert 0.005 < (pixels < 0.99).any(axis=-1).mean() < 0.6, path


def test_one_system_alone_has_no_pairs_to_draw(tmp_path):
    evaluation_plots.draw(evaluation(1), tmp_path, dataset="mq2008")
    assert {path.stem for path in tmp_path.iterdir()} == {"by_form", "by_length", "by_relevant", "ndcg_by_k"}


def test_the_bars_are_the_cliques_and_the_dots_the_mean_ranks(of_many):
    figure = evaluation_plots.critical_difference(of_many, dataset="mq2008")
    ranks, bars = figure.axes
    order = sorted(of_many.systems, key=lambda system: system.mean_rank)
    [dots] = [line for line in ranks.get_lines() if line.get_marker() == "o"]
    assert dots.get_xdata().tolist() == [system.mean_rank for system in order]
    assert [label.get_text() for label in ranks.get_yticklabels()] == shortened([system.shown for system in order])
    rows = {system.name: row for row, system in enumerate(order)}
    members = sorted(line.get_ydata().tolist() for line in bars.get_lines() if line.get_marker() == "o")
    assert members == sorted(sorted(rows[name] for name in clique) for clique in of_many.cliques)


def test_bars_of_wins_ties_and_losses_add_up(of_many):
    figure = evaluation_plots.wins_ties_losses(of_many, dataset="mq2008")
    widths = np.array([bar.get_width() for bar in figure.axes[0].patches]).reshape(3, -1)
    best = of_many.systems[0].name
    pairs = [of_many.pair(best, system.name) for system in of_many.systems[1:]]
    assert widths.T.tolist() == [[pair.wins, pair.ties, pair.losses] for pair in pairs]
    assert (widths.sum(axis=0) == 60).all()


def test_curves_are_the_figures_with_their_bands(of_many):
    figure = evaluation_plots.ndcg_by_k(of_many, dataset="mq2008")
    axes = figure.axes[0]
    best = of_many.systems[0]
    drawn = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert len(drawn) == min(7, len(of_many.systems))
    assert drawn[0].get_ydata().tolist() == [mean for mean, _, _ in best.ndcg_by_k.values()]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == max(high for _, _, high in best.ndcg_by_k.values())
    assert len([text for text in axes.texts if isinstance(text, Annotation)]) == len(drawn)


def test_results_by_kind_leave_out_the_queries_that_a_convention_decides():
    e = evaluation(3)
    assert "none relevant" in {group.group for group in e.groups}
    figure = evaluation_plots.by_kind(e, "relevant", dataset="mq2008")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    groups = [group for group in e.groups if group.kind == "relevant" and group.group != "none relevant"]
    assert [label.partition("\n")[0] for label in labels] == [group.group for group in groups]
    dots = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    for line, system in zip(dots, e.systems, strict=True):
        assert line.get_xdata().tolist() == [group.means[system.name] for group in groups]
    assert any("by number of relevant documents" in text.get_text() for text in words(figure))


def test_names_are_shortened_only_while_they_differ():
    assert shortened(["bm25", "x" * 80]) == ["bm25", f"{'x' * 27}…{'x' * 27}"]
    alike = [f"{'x' * 60}{number}{'x' * 60}" for number in range(2)]
    assert shortened(alike) == alike


def reasons(rows: int = 300) -> Reasons:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, 30))
    values[::5, 3] = np.nan
    contributions = np.nan_to_num(values) * np.linspace(1, 0, 30)
    return Reasons(tuple(f"feature_{number:02d}" for number in range(30)), values, contributions, "exact SHAP values")


def test_the_summary_shows_the_weightiest_features_first():
    found = reasons()
    figure = reason_plots.summary(found, title="lambdamart: contributions\nmq2008, test")
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    importance = found.importance()
    assert labels == sorted(importance, key=lambda name: -importance[name])[:15]
    assert axes.yaxis_inverted()
    assert clashes(figure) == []
    assert outside(figure) == []
    assert any("300 documents; the first 15 of 30 features" in text.get_text() for text in words(figure))
    # Two clouds a feature, the missing one grey; together every sampled document.
    clouds = axes.collections
    sizes = [len(cloud.get_offsets()) for cloud in clouds if hasattr(cloud, "get_sizes")]
    assert sum(sizes[:2]) == 300
    row = labels.index("feature_03")
    assert sizes[2 * row] == 60
    heights = clouds[2 * row + 1].get_offsets()[:, 1] - row
    assert np.abs(heights).max() < 0.5


def test_a_dots_colour_is_its_values_rank():
    values = np.array([[0.0], [1.0], [1000.0]])
    figure = reason_plots.summary(Reasons(("f",), values, np.array([[-1.0], [0.0], [2.0]]), "x"), title="t")
    low, middle, high = figure.axes[0].collections[1].get_facecolors()
    assert low[2] > high[2]
    assert high[0] > low[0]
    assert not np.allclose(middle, low)
    assert not np.allclose(middle, high)


def test_features_that_do_nothing_are_drawn_all_the_same():
    still = Reasons(("f", "g"), np.zeros((4, 2)), np.zeros((4, 2)), "x")
    rendered(reason_plots.summary(still, title="t"))
    rendered(importance_bars("t", still.importance()))


class FirstOfSlate:
    """Scores a row by its neighbours: what it adds is the slate's size."""

    name, family, feature_names = "first", "listwise", ("b", "a")

    def score(self, features):
        return self.explain(features).sum(axis=1)

    def explain(self, features):
        size = features.select(pl.len().over("qid")).to_series().to_numpy()
        return np.column_stack([size, np.zeros(len(size)), np.full(len(size), 7.0)])

    def save(self, folder):
        raise NotImplementedError


def test_reasons_are_of_whole_queries_spread_over_the_data():
    features = pl.DataFrame(
        {
            "qid": [f"q{n // 10:02d}" for n in range(500)],
            "docid": [str(n) for n in range(500)],
            "a": pl.Series([None if n % 2 else float(n) for n in range(500)], dtype=pl.Float32),
            "b": pl.Series(np.arange(500), dtype=pl.Float32),
        }
    )
    found = reasons_of(FirstOfSlate(), features, rows=100)
    assert found.names == ("b", "a")
    assert found.values.shape == found.contributions.shape == (100, 2)
    # Slates of ten, whole: a sample of single rows would have made smaller ones.
    assert (found.contributions[:, 0] == 10).all()
    assert np.isnan(found.values[:, 1]).sum() == 50
    assert found.values[:, 0].max() > 400
    assert found.importance() == {"b": 10.0, "a": 0.0}
    assert len(reasons_of(FirstOfSlate(), features, rows=1).values) == 10
