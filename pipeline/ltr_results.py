"""What `cascade ltr` found: every fit's figures in each convention, and the rankers compared over their seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import polars as pl
from rich import box
from rich.table import Table

from pipeline.evaluation import Evaluation, Judged, averaged, compare, judge
from pipeline.promotion import Promotion
from pipeline.stages import StageOutput
from rankers.artifact import Setting
from retrieval.metrics import Blank, mean, per_query

METRICS = ("ndcg_exp_cut_10", "ndcg_cut_10", "map", "err_10")
"""The first orders, tests and chooses."""
CONVENTIONS: Sequence[Blank] = ("zero", "one", "skip")


@dataclass(frozen=True)
class Fitted:
    """A ranker of one seed in the cache: `ranker` is its artifact, `folder` holds its scores and learning curve."""

    name: str
    seed: int
    key: str
    folder: Path
    settings: Mapping[str, Setting]
    train_s: float
    predict_us_per_doc: float

    @classmethod
    def read(cls, name: str, seed: int, output: StageOutput, settings: Mapping[str, Setting]) -> Self:
        costs = json.loads((output.path / "costs.json").read_text())
        return cls(name, seed, output.key, output.path, settings, costs["train_s"], costs["predict_us_per_doc"])

    @property
    def ranker(self) -> Path:
        return self.folder / "ranker"

    def scores(self, split: str) -> pl.DataFrame:
        """SCORED of the `valid` or `test` rows."""
        return pl.read_parquet(self.folder / f"{split}.parquet")

    def curve(self) -> pl.DataFrame | None:
        """What training logged; None for a blend."""
        path = self.folder / "curve.parquet"
        return pl.read_parquet(path) if path.exists() else None


@dataclass(frozen=True)
class LtrResult:
    """Rankers, each with its seeds, judged on the test split.

    fits: ranker → a fit a seed. evaluation: the rankers on test, each the mean of its seeds query by query. valid:
    ranker → the figures a validation query of its first seed, whose model is the one kept. selected: the ranker whose
    mean over seeds is best on validation. promotion: what became of it, None where it was not tracked.
    """

    dataset: str
    fingerprint: str
    fits: Mapping[str, Sequence[Fitted]]
    test: pl.DataFrame
    evaluation: Evaluation
    valid: Mapping[str, pl.DataFrame]
    selected: str
    promotion: Promotion | None = None

    @classmethod
    def of(
        cls,
        fits: Mapping[str, Sequence[Fitted]],
        valid: pl.DataFrame,
        test: pl.DataFrame,
        *,
        dataset: str,
        fingerprint: str,
        blank: Blank,
    ) -> Self:
        """Judge `fits` by the judgements (QRELS) of validation and test."""
        on_valid = {name: [per_query(fit.scores("valid"), valid, METRICS) for fit in row] for name, row in fits.items()}
        chosen = {name: fmean(mean(figures, blank)[METRICS[0]] for figures in row) for name, row in on_valid.items()}
        judged = {name: _averaged(row, test) for name, row in fits.items()}
        return cls(
            dataset=dataset,
            fingerprint=fingerprint,
            fits=fits,
            test=test,
            evaluation=compare(judged, metrics=METRICS, blank=blank, qrels=test),
            valid={name: row[0] for name, row in on_valid.items()},
            selected=max(chosen, key=lambda name: chosen[name]),
        )

    def as_json(self) -> dict[str, Any]:
        """The object that `cascade ltr --json` prints."""
        return {
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "queries": self.evaluation.queries,
            "blank_queries": self.evaluation.blank_queries,
            "rankers": [self._row(fit) for row in self.fits.values() for fit in row],
            "selected": self.selected,
            "evaluation": self.evaluation.as_json(),
            "promotion": self.promotion and {"status": self.promotion.status, "reason": self.promotion.reason},
        }

    def _row(self, fit: Fitted) -> dict[str, Any]:
        figures = per_query(fit.scores("test"), self.test, METRICS)
        skip = any(value is not None for value in figures[METRICS[0]])
        by = {blank: mean(figures, blank) for blank in CONVENTIONS if skip or blank != "skip"}

        def in_each(metric: str) -> dict[str, float | None]:
            return {blank: by[blank][metric] if blank in by else None for blank in CONVENTIONS}

        return {
            "name": fit.name,
            "seed": fit.seed,
            "ndcg_exp_cut_10": in_each("ndcg_exp_cut_10"),
            "ndcg_cut_10": in_each("ndcg_cut_10"),
            "map": by["zero"]["map"],
            "err_10": by["zero"]["err_10"],
            "train_s": fit.train_s,
            "predict_us_per_doc": fit.predict_us_per_doc,
            "settings": dict(fit.settings),
        }

    def table(self) -> Table:
        """For a terminal of 80 columns: the means over seeds, best first."""
        blanks, seeds = self.evaluation.blank_queries, len(next(iter(self.fits.values())))
        title = f"{self.dataset}, test: {self.evaluation.queries:,} queries, {blanks:,} with nothing relevant"
        caption = (
            f"means over {seeds} seed{'s' if seeds > 1 else ''}; NDCG@10 where such a query counts 1, 0 or nothing; "
            "gain 2^relevance − 1, linear in the last; map and err_10: counts 0; bold: best on validation"
        )
        table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("ranker", overflow="fold")
        for heading in ("one", "zero", "skip", "linear", "map", "err_10", "fit s", "µs/doc"):
            table.add_column(heading, justify="right", no_wrap=True)
        for system in self.evaluation.systems:
            m, row = system.metrics, self.fits[system.name]
            exp = m["ndcg_exp_cut_10"]
            values = (exp.one, exp.zero, exp.skip, m["ndcg_cut_10"].zero, m["map"].zero, m["err_10"].zero)
            costs = (f"{fmean(f.train_s for f in row):.1f}", f"{fmean(f.predict_us_per_doc for f in row):.2f}")
            cells = ["–" if value is None else f"{value:.4f}" for value in values]
            table.add_row(
                system.name.replace("+", "\n+"), *cells, *costs, style="bold" if system.name == self.selected else None
            )
        return table


def _averaged(row: Sequence[Fitted], test: pl.DataFrame) -> Judged:
    runs = {str(fit.seed): fit.scores("test") for fit in row}
    names = json.loads((row[0].ranker / "ranker.json").read_text())["feature_names"]
    return averaged(judge(runs, test, metrics=METRICS, features=dict.fromkeys(runs, names)))
