"""The figures of several systems on the same queries as one table of numbers a metric, and what they are on average."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.comparable import Judged
from pipeline.evaluated import Interval, Value
from retrieval import pairwise
from retrieval.errors import InputError
from retrieval.metrics import Blank

Figures: TypeAlias = NDArray[np.float64]

CUTOFFS = (1, 2, 3, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class JudgedTable:
    """All figures of all systems on the same rows of queries: metric → [queries, systems], NaN where undefined."""

    names: Sequence[str]
    metrics: Sequence[str]
    curve: Mapping[int, str]
    blank: Blank
    qids: pl.Series
    blank_rows: NDArray[np.bool_]
    raw: Mapping[str, Figures] = field(repr=False)

    @classmethod
    def of(cls, judged: Mapping[str, Judged], metrics: Sequence[str], blank: Blank) -> "JudgedTable":
        for name, system in judged.items():
            if absent := [metric for metric in metrics if metric not in system.per_query.columns]:
                there = ", ".join(system.per_query.columns[1:])
                raise InputError(f"{name}: has no figures a query of {absent[0]}; it has {there}")
        qids = next(iter(judged.values())).per_query["qid"]
        aligned = [_aligned(name, system.per_query, qids) for name, system in judged.items()]
        curve = {
            k: column
            for k in CUTOFFS
            if all((column := f"{curve_metric(metrics)}_{k}") in frame.columns for frame in aligned)
        }
        columns = dict.fromkeys([*metrics, *curve.values()])
        raw = {metric: np.column_stack([frame[metric].to_numpy() for frame in aligned]) for metric in columns}
        # Beyond the deepest ranking the curve is flat.
        while len(curve) > 1 and _same(*(raw[curve[k]] for k in list(curve)[-2:])):
            curve.popitem()
        undefined = np.isnan(raw[metrics[0]])
        if (odd := (undefined != undefined[:, :1]).any(axis=0)).any():
            one, other = next(iter(judged)), list(judged)[int(odd.argmax())]
            raise InputError(
                f"{one} and {other} were judged by different qrels: their queries with nothing relevant differ"
            )
        return cls(list(judged), list(dict.fromkeys(metrics)), curve, blank, qids, undefined[:, 0], raw)

    def filled(self, metric: str) -> Figures:
        """[queries that count, systems] under the blank policy."""
        values = self.raw[metric]
        if self.blank == "skip":
            values = values[~np.isnan(values).any(axis=1)]
            if not len(values):
                raise InputError(f"no query has a relevant document, so blank={self.blank!r} leaves nothing to compare")
            return values
        return np.nan_to_num(values, nan={"zero": 0.0, "one": 1.0}[self.blank])

    @property
    def headline(self) -> Figures:
        return self.filled(self.metrics[0])

    def systems(self) -> dict[str, tuple[dict[str, Value], dict[int, tuple[float, float, float]]]]:
        """Name → its values by metric, and its curve; all intervals from one set of resampled queries."""
        blocks = {metric: self.filled(metric) for metric in self.raw}
        bounds: dict[str, Figures] = {}
        # Under `skip` a metric that is defined for every query keeps more rows than the others.
        for height in {len(block) for block in blocks.values()}:
            alike = {metric: block for metric, block in blocks.items() if len(block) == height}
            spread = pairwise.interval(pairwise.resampled_means(np.concatenate(list(alike.values()), axis=1)))
            bounds |= dict(zip(alike, np.split(spread, len(alike), axis=1), strict=True))
        found = {}
        for place, name in enumerate(self.names):
            ci95 = {metric: (float(low[place]), float(high[place])) for metric, (low, high) in bounds.items()}
            values = {metric: _value(self.raw[metric][:, place], ci95[metric]) for metric in self.metrics}
            curve = {k: (float(blocks[m][:, place].mean()), *ci95[m]) for k, m in self.curve.items()}
            found[name] = (values, curve)
        return found


def _aligned(name: str, figures: pl.DataFrame, qids: pl.Series) -> pl.DataFrame:
    if figures["qid"].equals(qids):
        return figures
    joined = qids.to_frame("qid").join(figures, on="qid", how="inner", maintain_order="left")
    if joined.height != figures.height or joined.height != qids.len():
        raise InputError(f"{name}: was judged on {figures.height} queries that are not the {qids.len()} of the others")
    return joined


def _same(one: Figures, other: Figures) -> bool:
    return np.array_equal(one, other, equal_nan=True)


def _value(column: Figures, ci95: Interval) -> Value:
    defined = column[~np.isnan(column)]
    blanks = len(column) - len(defined)
    zero = float(defined.sum()) / len(column)
    return Value(zero, zero + blanks / len(column), float(defined.mean()) if len(defined) else None, ci95)


def curve_metric(metrics: Sequence[str]) -> str:
    """The NDCG of the curve, without its cutoff: of the gain convention that the first of `metrics` has."""
    if not metrics:
        raise InputError("no metric was asked for; name at least one, such as ndcg_cut_10")
    return "ndcg_exp_cut" if metrics[0].startswith("ndcg_exp_cut") else "ndcg_cut"
