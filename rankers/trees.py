"""Gradient-boosted trees by LightGBM: pointwise regression and LambdaMART."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np
import polars as pl

from rankers import headstart
from rankers.artifact import Artifact, Setting, write
from rankers.headstart import HeadStart
from rankers.protocol import Family, Floats, Log
from rankers.slates import Ndcg, Slates, matrix
from retrieval.errors import InputError

ONE_THREAD_ROWS = 5_000
"""Fewer rows than this, a few queries, are scored sooner by one thread than by waking a team of them."""


@dataclass(frozen=True)
class TreeRanker:
    """Fitted trees and the columns that they read; see rankers.protocol.Ranker.

    `model` is LightGBM's text: the only form that is kept, so that what was just trained and what is loaded tomorrow
    are the same model.
    """

    name: str
    family: Family
    feature_names: tuple[str, ...]
    hyperparameters: Mapping[str, Setting]
    start: HeadStart | None
    model: str
    booster: lgb.Booster

    @classmethod
    def of(cls, artifact: Artifact) -> "TreeRanker":
        """Rebuild from a verified artifact: LightGBM aborts the process on text that it did not write."""
        return cls(
            artifact.name,
            artifact.family,
            artifact.feature_names,
            artifact.hyperparameters,
            HeadStart.from_json(artifact.start) if artifact.start else None,
            (text := artifact.model.decode()),
            lgb.Booster(model_str=text),
        )

    def save(self, folder: Path) -> None:
        """Write ranker.json and model.txt into `folder`."""
        write(
            Artifact(
                name=self.name,
                family=self.family,
                kind="trees",
                feature_names=self.feature_names,
                hyperparameters=self.hyperparameters,
                model=self.model.encode(),
                start=self.start.to_json() if self.start else {},
            ),
            folder,
        )

    def score(self, features: pl.DataFrame) -> Floats:
        """Score each row, float32 [n]; see Ranker.score."""
        x = matrix(features, self.feature_names, "features")
        if not len(x):
            return np.empty(0, dtype=np.float32)
        scores = self.booster.predict(x, raw_score=True, num_threads=_threads(x))
        return np.asarray(scores if self.start is None else scores + self.start(x), dtype=np.float32)

    def explain(self, features: pl.DataFrame) -> Floats:
        """Exact SHAP values (Lundberg et al., 2020, path-dependent TreeSHAP), float64 [n, F + 1], the base value last.

        The base value is the mean score of the training rows; a head start is linear, its SHAP value is its feature's.
        """
        x = matrix(features, self.feature_names, "features")
        if not len(x):
            return np.empty((0, len(self.feature_names) + 1))
        reasons: Floats = np.array(
            self.booster.predict(x, pred_contrib=True, num_threads=_threads(x)), dtype=np.float64
        )
        if self.start is not None:
            reasons[:, self.start.column] += self.start.contribution(x)
            reasons[:, -1] += self.start.intercept
        return reasons


def fit_pointwise(
    train: pl.DataFrame,
    valid: pl.DataFrame,
    *,
    feature_names: Sequence[str],
    log: Log,
    seed: int = 0,
    threads: int = 2,
    offset_feature: str | None = None,
    learning_rate: float = 0.05,
    num_leaves: int = 15,
    min_data_in_leaf: int = 100,
    feature_fraction: float = 0.5,
    bagging_fraction: float = 0.7,
    lambda_l2: float = 10.0,
    rounds: int = 1000,
    patience: int = 100,
) -> TreeRanker:
    """Regress the grade on the features, each document by itself; stopped, as it is used, on validation NDCG@10.

    train, valid: FEATURES with `relevance: Int32`; what is learned does not depend on the order of their rows, and is
    the same for the same seed and threads. offset_feature: boost from this column (rankers.headstart). Raises
    InputError as `Slates.of` does.
    """
    settings: dict[str, Setting] = {
        "objective": "regression",
        "learning_rate": learning_rate,
        "num_leaves": num_leaves,
        "min_data_in_leaf": min_data_in_leaf,
        "feature_fraction": feature_fraction,
        "bagging_fraction": bagging_fraction,
        "lambda_l2": lambda_l2,
    }
    data = _Data.of(train, valid, feature_names, offset_feature, headstart.fit_regression)
    model, best = _boost(data, settings, log, seed=seed, threads=threads, rounds=rounds, patience=patience)
    return _ranker("pointwise", "pointwise", feature_names, {**settings, "rounds": best, "seed": seed}, data, model)


def fit_lambdamart(
    train: pl.DataFrame,
    valid: pl.DataFrame,
    *,
    feature_names: Sequence[str],
    log: Log,
    seed: int = 0,
    threads: int = 1,
    offset_feature: str | None = None,
    truncation_level: int = 30,
    learning_rate: float = 0.05,
    num_leaves: int = 15,
    min_data_in_leaf: int = 100,
    feature_fraction: float = 0.5,
    bagging_fraction: float = 0.7,
    lambda_l2: float = 10.0,
    rounds: int = 1000,
    patience: int = 100,
) -> TreeRanker:
    """LambdaMART (Burges, MSR-TR-2010-82): pairwise gradients weighted by the NDCG that swapping the pair would change.

    truncation_level: pairs count when one of the two stands this high in the current ranking. LightGBM's manual advises
    a little above the k of NDCG@k for large data; with few judged documents a query the pairs that this drops are
    missed, and 30 was better in cross-validation. threads: with more than one, LightGBM 4.7 bags queries in an order
    that differs from run to run, and so does the model. The rest is as in `fit_pointwise`.
    """
    settings: dict[str, Setting] = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": truncation_level,
        "bagging_by_query": True,
        "learning_rate": learning_rate,
        "num_leaves": num_leaves,
        "min_data_in_leaf": min_data_in_leaf,
        "feature_fraction": feature_fraction,
        "bagging_fraction": bagging_fraction,
        "lambda_l2": lambda_l2,
    }
    data = _Data.of(train, valid, feature_names, offset_feature, headstart.fit_listwise)
    model, best = _boost(data, settings, log, seed=seed, threads=threads, rounds=rounds, patience=patience)
    return _ranker("lambdamart", "listwise", feature_names, {**settings, "rounds": best, "seed": seed}, data, model)


def _threads(x: Floats) -> int:
    return 1 if len(x) < ONE_THREAD_ROWS else 0  # 0: LightGBM's default, all cores


@dataclass(frozen=True)
class _Data:
    train: Slates
    valid: Slates
    start: HeadStart | None

    @classmethod
    def of(
        cls,
        train: pl.DataFrame,
        valid: pl.DataFrame,
        feature_names: Sequence[str],
        offset_feature: str | None,
        fit_start: Callable[[Slates, int], HeadStart],
    ) -> "_Data":
        slates = Slates.of(train, feature_names, "train")
        stopping = Slates.of(valid, feature_names, "valid")
        if offset_feature is None:
            return cls(slates, stopping, None)
        if offset_feature not in feature_names:
            raise InputError(f"the offset {offset_feature!r} is not a feature; one of: {', '.join(feature_names)}")
        return cls(slates, stopping, fit_start(slates, list(feature_names).index(offset_feature)))


def _ranker(
    name: str,
    family: Family,
    feature_names: Sequence[str],
    settings: Mapping[str, Setting],
    data: _Data,
    model: str,
) -> TreeRanker:
    settings = {**settings, "offset_feature": feature_names[data.start.column] if data.start else None}
    return TreeRanker(name, family, tuple(feature_names), settings, data.start, model, lgb.Booster(model_str=model))


def _boost(
    data: _Data, settings: Mapping[str, Setting], log: Log, *, seed: int, threads: int, rounds: int, patience: int
) -> tuple[str, int]:
    """The model as text, cut at the round that was best on validation, and that round; logs NDCG@10 each round."""
    params = {
        **settings,
        "metric": "none",
        "bagging_freq": 1,
        "seed": seed,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    train = _dataset(data.train, data.start, None, params)
    valid = _dataset(data.valid, data.start, train, params)
    ndcg = {id(train): Ndcg(data.train), id(valid): Ndcg(data.valid)}

    def judge(scores: Floats, dataset: lgb.Dataset) -> tuple[str, float, bool]:
        return "ndcg_cut_10", ndcg[id(dataset)](scores), True

    def log_round(env: lgb.callback.CallbackEnv) -> None:
        log({f"{split}_{metric}": value for split, metric, value, _ in env.evaluation_result_list}, env.iteration + 1)

    booster = lgb.train(
        params,
        train,
        num_boost_round=rounds,
        valid_sets=[train, valid],
        valid_names=["train", "valid"],
        feval=judge,
        callbacks=[log_round, lgb.early_stopping(patience, verbose=False)],
    )
    return booster.model_to_string(num_iteration=booster.best_iteration), booster.best_iteration


def _dataset(
    slates: Slates, start: HeadStart | None, reference: lgb.Dataset | None, params: Mapping[str, object]
) -> lgb.Dataset:
    return lgb.Dataset(
        slates.x,
        label=slates.relevance,
        group=slates.sizes,
        init_score=None if start is None else start(slates.x),
        reference=reference,
        params=dict(params),
    )
