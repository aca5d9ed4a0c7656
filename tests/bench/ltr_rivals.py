"""The libraries that a ranking team would call themselves, stopped by the same measure as ours (`bench_ltr_rivals`).

Every rival has one signature (`Fit`), boosts for as long as the validation queries gain in NDCG@10 by our metric, and
takes its settings from a small fixed grid, chosen per fold on validation alone. The grids hold what the libraries'
manuals advise for small data (low learning rate, shallow or few-leaved trees, row and column sampling), and the options
that their ranking objectives are known to hang on. One thread each.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from rankers.slates import Ndcg, Slates, matrix
from tests.bench import mq2008

Floats: TypeAlias = npt.NDArray[np.floating]
Value: TypeAlias = str | float | int | bool
Settings: TypeAlias = Mapping[str, Value]
Predict: TypeAlias = Callable[[Floats], Floats]

ROUNDS, PATIENCE = 1000, 100
_OURS = ("rounds", "patience", "keep_blank")


class Fit(Protocol):
    """Train on `train`, stop on `valid`, score `test`; frames are judged FEATURES, settings are the library's own, and:

    rounds (1000), patience (100): boosting goes on while validation gains within `patience` rounds;
    keep_blank (True): whether queries with nothing relevant are trained on.

    Returns (scores float32 [n] of test's rows in their order, seconds of training, µs a document of scoring them).
    """

    def __call__(
        self, train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, *, seed: int, settings: Settings
    ) -> tuple[Floats, float, float]: ...


@dataclass(frozen=True)
class Rival:
    """A library's objective under its name in the tables, its package, and the settings to choose from."""

    name: str
    package: str
    fit_score: Fit
    grid: Sequence[Settings]

    @property
    def installed(self) -> bool:
        return find_spec(self.package) is not None


@dataclass(frozen=True)
class _Data:
    """Training arrays, rows of a query contiguous, and what is watched: the validation slates and their NDCG@10."""

    x: Floats
    relevance: npt.NDArray[np.integer]
    sizes: npt.NDArray[np.integer]
    watched: Slates
    ndcg: Ndcg

    @classmethod
    def of(cls, train: pl.DataFrame, valid: pl.DataFrame, names: Sequence[str], keep_blank: bool) -> "_Data":
        relevant = (pl.col("relevance") > 0).any().over("qid")
        # What a blank query counts is the same for every model: left out, the best round is the same.
        watched = Slates.of(valid.filter(relevant), names, "valid")
        train = train if keep_blank else train.filter(relevant)
        train = train.sort("qid", maintain_order=True)
        sizes = train["qid"].rle().struct.field("len").to_numpy().astype(np.int64)
        return cls(matrix(train, names, "train"), train["relevance"].to_numpy(), sizes, watched, Ndcg(watched))

    @property
    def groups(self) -> npt.NDArray[np.integer]:
        """The query of each row, numbered from 0."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


def _fit_score(
    fit: Callable[[_Data, int, Settings, int, int], Predict],
    train: pl.DataFrame,
    valid: pl.DataFrame,
    test: pl.DataFrame,
    seed: int,
    settings: Settings,
) -> tuple[Floats, float, float]:
    names = mq2008.feature_names(train)
    data = _Data.of(train, valid, names, bool(settings.get("keep_blank", True)))
    library = {name: value for name, value in settings.items() if name not in _OURS}
    rounds, patience = int(settings.get("rounds", ROUNDS)), int(settings.get("patience", PATIENCE))
    start = time.perf_counter()
    predict = fit(data, seed, library, rounds, patience)
    seconds = time.perf_counter() - start
    x = matrix(test, names, "test")
    took, scores = [], np.empty(0)
    for _ in range(3):
        start = time.perf_counter()
        scores = predict(x)
        took.append(time.perf_counter() - start)
    return np.asarray(scores, dtype=np.float32), seconds, min(took) * 1e6 / max(len(x), 1)


def _lightgbm(objective: str) -> Fit:
    def fit(data: _Data, seed: int, settings: Settings, rounds: int, patience: int) -> Predict:
        import lightgbm as lgb

        fixed = {"metric": "none", "bagging_freq": 1, "num_threads": 1, "deterministic": True, "force_row_wise": True}
        params = {"objective": objective, **fixed, "seed": seed, "verbosity": -1, **settings}
        train = lgb.Dataset(data.x, data.relevance, group=data.sizes, params=params)
        valid = train.create_valid(data.watched.x, data.watched.relevance, group=data.watched.sizes)
        booster = lgb.train(
            params,
            train,
            num_boost_round=rounds,
            valid_sets=[valid],
            feval=lambda scores, _: ("ndcg", data.ndcg(scores), True),
            callbacks=[lgb.early_stopping(patience, verbose=False)],
        )
        return lambda x: booster.predict(x, num_iteration=booster.best_iteration, raw_score=True, num_threads=1)

    return lambda train, valid, test, *, seed, settings: _fit_score(fit, train, valid, test, seed, settings)


def bare_lightgbm_seconds(
    train: pl.DataFrame, valid: pl.DataFrame, *, rounds: int, seed: int, threads: int, settings: Settings
) -> float:
    """Seconds that LightGBM takes by itself: arrays in, `rounds` boosted, its own NDCG@10 of validation each round.

    What a team would write, and so what training through Cascade is held to. settings: LightGBM's, objective included;
    the rows are those that Cascade learns from (queries with nothing relevant left out).
    """
    import lightgbm as lgb

    names = mq2008.feature_names(train)
    data = _Data.of(train, valid, names, keep_blank=False)
    params = {"bagging_freq": 1, "num_threads": threads, "seed": seed, "deterministic": True, "force_row_wise": True,
              "verbosity": -1, "metric": "ndcg", "eval_at": [10], **settings}  # fmt: skip
    start = time.perf_counter()
    dataset = lgb.Dataset(data.x, data.relevance, group=data.sizes, params=params)
    watched = dataset.create_valid(data.watched.x, data.watched.relevance, group=data.watched.sizes)
    lgb.train(params, dataset, num_boost_round=rounds, valid_sets=[watched])
    return time.perf_counter() - start


def _xgboost(objective: str) -> Fit:
    def fit(data: _Data, seed: int, settings: Settings, rounds: int, patience: int) -> Predict:
        import xgboost as xgb

        params = {"objective": objective, "tree_method": "hist", "nthread": 1, "seed": seed, "verbosity": 0, **settings}
        train = xgb.DMatrix(data.x, data.relevance, qid=data.groups, nthread=1)
        valid = xgb.DMatrix(data.watched.x, data.watched.relevance, group=data.watched.sizes, nthread=1)
        booster = xgb.train(
            params | {"disable_default_eval_metric": True},
            train,
            rounds,
            evals=[(valid, "valid")],
            custom_metric=lambda scores, _: ("ndcg", data.ndcg(scores)),
            early_stopping_rounds=patience,
            maximize=True,
            verbose_eval=False,
        )
        best = (0, booster.best_iteration + 1)
        return lambda x: booster.inplace_predict(x, iteration_range=best, predict_type="margin")

    return lambda train, valid, test, *, seed, settings: _fit_score(fit, train, valid, test, seed, settings)


def _catboost(objective: str) -> Fit:
    def fit(data: _Data, seed: int, settings: Settings, rounds: int, patience: int) -> Predict:
        """CatBoost stops by metrics of its own, of which this is the nearest to ours; ours finds the best stage."""
        import catboost

        params = {"loss_function": objective, "iterations": rounds, "random_seed": seed, "thread_count": 1,
                  "eval_metric": "NDCG:top=10;type=Exp", "od_type": "Iter", "od_wait": patience,
                  "use_best_model": False, "logging_level": "Silent", "allow_writing_files": False}  # fmt: skip
        model = catboost.CatBoost(params | dict(settings))
        watched = np.repeat(np.arange(len(data.watched.sizes)), data.watched.sizes)
        model.fit(
            catboost.Pool(data.x, data.relevance, group_id=data.groups),
            eval_set=catboost.Pool(data.watched.x, data.watched.relevance, group_id=watched),
        )
        stages = model.staged_predict(data.watched.x, prediction_type="RawFormulaVal", thread_count=1)
        best = 1 + int(np.argmax([data.ndcg(scores) for scores in stages]))
        return lambda x: model.predict(x, ntree_end=best, prediction_type="RawFormulaVal", thread_count=1)

    return lambda train, valid, test, *, seed, settings: _fit_score(fit, train, valid, test, seed, settings)


_LIGHTGBM = {"learning_rate": 0.05, "num_leaves": 15, "min_data_in_leaf": 100, "feature_fraction": 0.5,
             "bagging_fraction": 0.7, "lambda_l2": 10.0}  # fmt: skip
_XGBOOST = {"learning_rate": 0.05, "max_depth": 4, "min_child_weight": 5, "subsample": 0.7, "colsample_bytree": 0.5,
            "reg_lambda": 10.0}  # fmt: skip
_XGB_PAIRS = {**_XGBOOST, "min_child_weight": 0.1, "reg_lambda": 1.0}
_CATBOOST = {"learning_rate": 0.05, "depth": 6, "l2_leaf_reg": 10.0}

RIVALS: Mapping[str, Rival] = {
    rival.name: rival
    for rival in (
        Rival(
            "lightgbm regression",
            "lightgbm",
            _lightgbm("regression"),
            [
                _LIGHTGBM,
                _LIGHTGBM | {"keep_blank": False},
                _LIGHTGBM | {"num_leaves": 31, "min_data_in_leaf": 20},
                _LIGHTGBM | {"num_leaves": 7, "min_data_in_leaf": 50},
            ],
        ),
        Rival(
            "lightgbm lambdarank",
            "lightgbm",
            _lightgbm("lambdarank"),
            [
                _LIGHTGBM,
                _LIGHTGBM | {"bagging_by_query": True},
                _LIGHTGBM | {"lambdarank_truncation_level": 13},
                _LIGHTGBM | {"num_leaves": 31, "min_data_in_leaf": 20},
            ],
        ),
        Rival(
            "xgboost reg:squarederror",
            "xgboost",
            _xgboost("reg:squarederror"),
            [
                _XGBOOST,
                _XGBOOST | {"keep_blank": False},
                _XGBOOST | {"max_depth": 6, "min_child_weight": 20},
                _XGBOOST | {"max_depth": 3, "learning_rate": 0.1},
            ],
        ),
        *(
            Rival(
                f"xgboost {objective}",
                "xgboost",
                _xgboost(objective),
                [
                    _XGB_PAIRS,
                    _XGB_PAIRS | {"lambdarank_pair_method": "mean", "lambdarank_num_pair_per_sample": 4},
                    _XGB_PAIRS | {"lambdarank_normalization": False},
                    _XGB_PAIRS | {"max_depth": 6, "reg_lambda": 10.0},
                ],
            )
            for objective in ("rank:ndcg", "rank:pairwise")
        ),
        Rival(
            "catboost QueryRMSE",
            "catboost",
            _catboost("QueryRMSE"),
            [
                _CATBOOST,
                _CATBOOST | {"keep_blank": False},
                _CATBOOST | {"depth": 4, "rsm": 0.5},
                _CATBOOST | {"learning_rate": 0.03, "l2_leaf_reg": 3.0},
            ],
        ),
        Rival("catboost YetiRank", "catboost", _catboost("YetiRank"), [_CATBOOST, _CATBOOST | {"depth": 4}]),
        Rival("catboost YetiRankPairwise", "catboost", _catboost("YetiRankPairwise"), [_CATBOOST | {"depth": 4}]),
    )
}
