"""Regression-EM: examination and relevance told apart by the documents' features, without any intervention.

Wang, Golbandi, Bendersky, Metzler and Najork, "Position bias estimation for unbiased learning to rank in personal
search", WSDM 2018. Where no document is ever shown at two positions, what ties the positions together is that similar
documents are similarly relevant.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import lightgbm as lgb
import numpy as np
import polars as pl
from scipy.special import expit, logit

from rankers.clicks.log import check_counts
from rankers.clicks.pbm import check_budget
from rankers.clicks.propensity import PROPENSITIES
from rankers.clicks.protocol import FLOOR
from rankers.protocol import Floats, Log
from rankers.slates import matrix
from retrieval.errors import InputError


@dataclass(frozen=True)
class RegressionEm:
    """propensities: position, propensity (largest 1); relevance: qid, docid, relevance: Float32, the regression's."""

    propensities: pl.DataFrame
    relevance: pl.DataFrame


def fit_regression_em(
    counts: pl.DataFrame,
    features: pl.DataFrame,
    *,
    feature_names: Sequence[str],
    log: Log,
    iterations: int = 50,
    trees: int = 10,
    learning_rate: float = 0.1,
    num_leaves: int = 2,
    min_data_in_leaf: int = 50,
    seed: int = 0,
    threads: int = 1,
) -> RegressionEm:
    """Fit the position-based model to COUNTS with relevance a function of `features` (FEATURES), not a number a pair.

    The E-step is `fit_pbm`'s. The M-step for the positions is too; that for relevance grows `trees` more trees of one
    boosted regression, with cross-entropy to the posterior P(R = 1 | clicks) as its loss (Wang et al. sample the
    posterior instead: the same in expectation, with more noise).

    A page whose logging ranking is itself a function of these features says less than it seems to: trees that can
    express the logging score can explain position bias away as relevance. Stumps, an additive model, keep that in
    bounds (they predict clicks on unseen queries best, too); interventions (swap_propensities) do not need it.

    log: called with the mean `log_likelihood` of an impression each iteration. Raises InputError for pairs of the log
    without features, and as `check_counts` and `rankers.slates.matrix` do.
    """
    check_counts(counts, "counts")
    check_budget(iterations, 0.0)
    pairs = counts.group_by("qid", "docid").agg(pl.col("impressions").sum()).sort("qid", "docid").with_row_index("pair")
    known = pairs.join(features, on=["qid", "docid"], how="left", maintain_order="left", coalesce=True)
    if absent := pairs.join(features, on=["qid", "docid"], how="anti").height:
        raise InputError(f"features: {absent} of the {pairs.height} documents of the log have none")
    x = matrix(known, feature_names, "features")
    rows = counts.join(pairs.select("qid", "docid", "pair"), on=["qid", "docid"])
    pair = rows["pair"].to_numpy()
    position, place = np.unique(rows["position"].to_numpy(), return_inverse=True)
    shown, clicks = rows["impressions"].to_numpy().astype(np.float64), rows["clicks"].to_numpy().astype(np.float64)
    weight, by_place = pairs["impressions"].to_numpy().astype(np.float64), np.bincount(place, shown)
    regression = _Regression(x, weight / weight.mean(), {
        "objective": "cross_entropy", "learning_rate": learning_rate, "num_leaves": num_leaves,
        "min_data_in_leaf": min_data_in_leaf, "seed": seed, "num_threads": threads, "deterministic": True,
        "force_row_wise": True, "verbosity": -1,
    })  # fmt: skip
    examination = np.full(len(by_place), 0.5)
    for iteration in range(1, iterations + 1):
        r, e = regression.relevance()[pair], examination[place]
        skipped = (shown - clicks) / np.maximum(1 - r * e, FLOOR)
        relevant = np.bincount(pair, clicks + skipped * r * (1 - e)) / weight
        examination = np.bincount(place, clicks + skipped * e * (1 - r)) / by_place
        regression.grow(relevant, trees)
        p = np.clip(regression.relevance()[pair] * examination[place], FLOOR, 1 - FLOOR)
        total = (clicks * np.log(p) + (shown - clicks) * np.log1p(-p)).sum() / shown.sum()
        log({"log_likelihood": float(total)}, iteration)
    scale = max(float(examination.max()), FLOOR)
    return RegressionEm(
        pl.DataFrame({"position": position, "propensity": np.maximum(examination / scale, FLOOR)}, schema=PROPENSITIES),
        pairs.select("qid", "docid", relevance=pl.Series(regression.relevance() * scale, dtype=pl.Float32)),
    )


class _Regression:
    """Boosted trees whose target moves between one handful of trees and the next."""

    def __init__(self, x: Floats, weight: Floats, params: dict[str, bool | int | float | str]) -> None:
        self._x, self._params = x, params
        self._data = lgb.Dataset(x, label=np.zeros(len(x)), weight=weight, free_raw_data=False, params=dict(params))
        self._score: Floats = np.zeros(len(x))

    def relevance(self) -> Floats:
        """P(R = 1) of each pair, float64 [P]."""
        probability: Floats = expit(self._score)
        return probability

    def grow(self, target: Floats, trees: int) -> None:
        """Add `trees` trees towards `target` [P], probabilities."""
        if not self._score.any():
            self._score += logit(np.clip(target.mean(), FLOOR, 1 - FLOOR))
        self._data.construct().set_label(np.clip(target, 0.0, 1.0)).set_init_score(self._score)
        booster = lgb.train(self._params, self._data, num_boost_round=trees)
        self._score = self._score + booster.predict(self._x, raw_score=True, num_threads=self._params["num_threads"])
