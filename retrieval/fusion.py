"""Fusion of several stages' runs into one."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Literal, Self

import polars as pl

from retrieval.errors import InputError
from retrieval.frames import QRELS, RUN, check, ranked
from retrieval.metrics import per_query

log = logging.getLogger(__name__)

Method = Literal["minmax", "rrf"]
RRF_K = 60


def reciprocal_ranks() -> pl.Expr:
    """1 / (60 + rank): Cormack, Clarke & Büttcher 2009 (RRF). A document that a stage missed gets 0."""
    return 1.0 / (RRF_K + pl.col("rank"))


def min_max() -> pl.Expr:
    """(s − min) / (max − min) over the query's list (Lee 1997); all 1 where the list has a single score."""
    low, high = pl.col("score").min().over("qid"), pl.col("score").max().over("qid")
    return pl.when(high > low).then((pl.col("score") - low) / (high - low)).otherwise(1.0)


@dataclass(frozen=True)
class Fusion:
    """A weighted sum of the stages' normalised scores; a document that a stage missed gets 0 from it.

    method: "minmax" or "rrf"; weights: stage name → weight, summing to 1.
    """

    method: Method
    weights: Mapping[str, float]

    def fuse(self, runs: Mapping[str, pl.DataFrame], depth: int) -> pl.DataFrame:
        """RUNs by stage name → one RUN."""
        if set(runs) != set(self.weights):
            raise InputError(f"fusion: needs runs of {', '.join(self.weights)}; found {', '.join(runs) or 'none'}")
        return ranked(_combine(self._normalised(runs), self.weights), depth)

    def _normalised(self, runs: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """qid, docid and one column a stage; 0 where the stage missed the document."""
        normalise = min_max if self.method == "minmax" else reciprocal_ranks
        columns = [
            check(run, RUN, f"run of {stage}").select("qid", "docid", normalise().cast(pl.Float64).alias(stage))
            for stage, run in runs.items()
        ]
        joined = reduce(lambda a, b: a.join(b, on=["qid", "docid"], how="full", coalesce=True), columns)
        return joined.with_columns(pl.col(*runs).fill_null(0.0))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))


def _combine(normalised: pl.DataFrame, weights: Mapping[str, float]) -> pl.DataFrame:
    total = pl.sum_horizontal(pl.col(stage) * weight for stage, weight in weights.items())
    return normalised.select("qid", "docid", total.cast(pl.Float32).alias("score"))


def even(stages: list[str], method: Method = "minmax") -> Fusion:
    """Equal weights: what is used where there are no validation queries to fit on."""
    return Fusion(method, {stage: 1 / len(stages) for stage in stages})


def fit(runs: Mapping[str, pl.DataFrame], qrels: pl.DataFrame, *, steps: int = 20) -> Fusion:
    """The method and the weights (a grid of 1/`steps`) with the highest mean ndcg_cut_10 on `qrels`' queries.

    Each grid point is judged together with its neighbours of the same method, since on a few hundred queries a lone
    peak is mostly noise.
    """
    check(qrels, QRELS, "validation qrels")
    if not (qrels["relevance"] > 0).any():
        log.warning("nothing is relevant to any validation query: fusion weights are even")
        return even(list(runs))
    stages = list(runs)
    grid = [w for w in product(range(steps + 1), repeat=len(stages)) if sum(w) == steps]
    best: tuple[float, Fusion] | None = None
    methods: tuple[Method, ...] = ("minmax", "rrf")
    for method in methods:
        normalised = even(stages, method)._normalised(runs)
        means = {}
        for point in grid:
            weights = {stage: w / steps for stage, w in zip(stages, point, strict=True)}
            fused = _combine(normalised, weights)
            means[point] = float(per_query(fused, qrels, ["ndcg_cut_10"])["ndcg_cut_10"].mean())  # type: ignore[arg-type]
        for point in grid:
            near = [means[other] for other in grid if max(abs(a - b) for a, b in zip(point, other, strict=True)) <= 1]
            smoothed = sum(near) / len(near)
            log.debug("fusion %s %s: %.4f, with its neighbours %.4f", method, point, means[point], smoothed)
            if best is None or smoothed > best[0]:
                best = smoothed, Fusion(method, {s: w / steps for s, w in zip(stages, point, strict=True)})
    if best is None:
        raise InputError("fusion: there is no stage to fuse")
    return best[1]
