"""Gradient-boosted trees by LightGBM: regression, logistic, LambdaMART and XE-NDCG."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import lightgbm as lgb
import numpy as np
import polars as pl

from rankers import headstart
from rankers.artifact import Artifact, Setting, write
from rankers.catalogue import TREES
from rankers.context import Context, check_context, folded, widened
from rankers.headstart import HeadStart
from rankers.protocol import Family, Floats, Log
from rankers.slates import Ints, Ndcg, Slates, grouping, matrix
from retrieval.errors import InputError

ONE_THREAD_ROWS = 500
"""Fewer rows than this are scored sooner by one thread than by waking a team of them. From here on a team halves the
time where its cores are idle, and doubles it where they are busy; the scores are the same to the bit."""
METRIC = "ndcg_exp_cut_10"
TRUNCATION_LEVEL = 30


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
        x, order = self._rows(features)
        scores = np.empty(len(x), dtype=np.float32)
        if len(x):
            found = self.booster.predict(x, raw_score=True, num_threads=_threads(x))
            scores[order] = found if self.start is None else found + self.start(x)
        return scores

    def explain(self, features: pl.DataFrame) -> Floats:
        """Exact SHAP values (Lundberg et al., 2020, path-dependent TreeSHAP), float64 [n, F + 1], the base value last.

        The base value is the mean score of the training rows; a head start is linear, its SHAP value is its feature's;
        what a feature's standing in the slate adds counts as the feature's.
        """
        x, order = self._rows(features)
        reasons = np.empty((len(x), len(self.feature_names) + 1))
        if not len(x):
            return reasons
        found = np.array(self.booster.predict(x, pred_contrib=True, num_threads=_threads(x)), dtype=np.float64)
        if self.start is not None:
            found[:, self.start.column] += self.start.contribution(x)
            found[:, -1] += self.start.intercept
        reasons[order] = folded(found, len(self.feature_names))
        return reasons

    def _rows(self, features: pl.DataFrame) -> tuple[Floats, Ints | slice]:
        """What the trees read of each row, and the rows' places in `features`."""
        context = cast(Context, self.hyperparameters.get("context", "none"))
        if context == "none":
            return matrix(features, self.feature_names, "features"), slice(None)
        order, sizes = grouping(features, "features")
        return widened(matrix(features, self.feature_names, "features", order), sizes, context), order


def fit_trees(
    name: str,
    train: pl.DataFrame,
    valid: pl.DataFrame,
    *,
    feature_names: Sequence[str],
    log: Log,
    seed: int = 0,
    threads: int = 1,
    soft: bool = False,
    context: Context = "none",
    offset_feature: str | None = None,
    position_column: str | None = None,
    position_regularisation: float = 0.0,
    monotone: Mapping[str, int] | None = None,
    threshold: int = 1,
    truncation_level: int = TRUNCATION_LEVEL,
    norm: bool = True,
    label_gain: Sequence[float] | None = None,
    learning_rate: float = 0.05,
    num_leaves: int = 15,
    min_data_in_leaf: int = 100,
    feature_fraction: float = 0.5,
    bagging_fraction: float = 0.7,
    lambda_l2: float = 10.0,
    rounds: int = 1000,
    patience: int = 100,
) -> TreeRanker:
    """Boost trees for the objective called `name` (`rankers.catalogue.TREES`), stopped on validation NDCG@10.

    train, valid: FEATURES with `relevance: Int32` (Float32 where `soft`, for regression alone); what is learned does
    not depend on the order of their rows, and is the same for the same seed and threads. With more than one thread
    LightGBM 4.7 bags queries in an order that differs from run to run, and so does the model.

    context: what the trees read beside the features, see `rankers.context.widened`.
    offset_feature: boost from this column (`rankers.headstart`; regression and lambdamart).
    monotone: feature → 1 (the score may only rise with it) or -1.
    threshold: the lowest grade that counts as relevant (logistic).
    truncation_level, norm, label_gain, position_column, position_regularisation (lambdamart): pairs count when one of
        the two stands this high in the current ranking (LightGBM's manual advises a little above the k of NDCG@k for
        large data; with few judged documents a query, 30 was better in cross-validation); whether a query's gradients
        are normalised; the gain of each grade from 0 (default 2^grade - 1); the Int32 column of the position at which
        each row was shown, whose bias is learned beside the trees and taken out (Unbiased LambdaMART: Hu et al., WWW
        2019, as LightGBM's `position` has it), and how strongly that bias is held to zero.

    Raises InputError as `Slates.of` does, and for an option that the objective has not.
    """
    check_context(context)
    objective = _objective(name, soft, threshold, truncation_level, norm, label_gain, position_column, offset_feature)
    settings: dict[str, Setting] = {
        **objective,
        "learning_rate": learning_rate,
        "num_leaves": num_leaves,
        "min_data_in_leaf": min_data_in_leaf,
        "feature_fraction": feature_fraction,
        "bagging_fraction": bagging_fraction,
        "lambda_l2": lambda_l2,
    }
    if monotone:
        if unknown := [feature for feature in monotone if feature not in feature_names]:
            raise InputError(f"the monotone constraint names {unknown[0]!r}, which is not a feature")
        constraints = [monotone.get(feature, 0) for feature in feature_names]
        settings["monotone_constraints"] = constraints if context == "none" else [*constraints, *constraints]
    fit_start = headstart.fit_regression if name == "regression" else headstart.fit_listwise
    data = _Data.of(train, valid, feature_names, offset_feature, fit_start, soft, position_column).widened(context)
    if position_column is not None:
        settings["lambdarank_position_bias_regularization"] = position_regularisation
    if name == "logistic":
        data = data.binarised(threshold)
    model, best = _boost(data, settings, log, seed=seed, threads=threads, rounds=rounds, patience=patience)
    if name == "logistic":
        settings["threshold"] = threshold
    settings |= {"context": context, "offset_feature": offset_feature, "rounds": best, "seed": seed}
    booster = lgb.Booster(model_str=model)
    return TreeRanker(name, TREES[name].family, tuple(feature_names), settings, data.start, model, booster)


fit_regression = partial(fit_trees, "regression")
fit_lambdamart = partial(fit_trees, "lambdamart")


def _objective(
    name: str,
    soft: bool,
    threshold: int,
    truncation_level: int,
    norm: bool,
    label_gain: Sequence[float] | None,
    position_column: str | None,
    offset_feature: str | None,
) -> dict[str, Setting]:
    """LightGBM's parameters of the objective. Raises InputError for an option that it has not."""
    if soft and name != "regression":
        raise InputError(f"{name} needs grades: soft labels are for regression and the networks")
    if offset_feature is not None and name not in ("regression", "lambdamart"):
        raise InputError(f"{name} has no head start: offset_feature is for regression and lambdamart")
    if name != "lambdamart" and (position_column is not None or label_gain is not None):
        raise InputError(f"{name} has no positions and no label gains: they are for lambdamart")
    if name != "lambdamart" and (truncation_level != TRUNCATION_LEVEL or not norm):
        raise InputError(f"{name} compares no pairs: truncation_level and norm are for lambdamart")
    if threshold != 1 and name != "logistic":
        raise InputError(f"{name} has no threshold: it is for logistic")
    match name:
        case "regression":
            return {"objective": "regression"}
        case "logistic":
            return {"objective": "binary"}
        case "xendcg":
            return {"objective": "rank_xendcg", "bagging_by_query": True}
        case "lambdamart":
            parameters: dict[str, Setting] = {
                "objective": "lambdarank",
                "lambdarank_truncation_level": truncation_level,
                "lambdarank_norm": norm,
                "bagging_by_query": True,
            }
            return parameters if label_gain is None else {**parameters, "label_gain": list(label_gain)}
    raise InputError(f"{name!r} is no ranker of trees; known: {', '.join(TREES)}")


def _threads(x: Floats) -> int:
    return 1 if len(x) < ONE_THREAD_ROWS else 0  # 0: LightGBM's default, all cores


@dataclass(frozen=True)
class _Data:
    train: Slates
    valid: Slates
    start: HeadStart | None
    positions: Ints | None

    @classmethod
    def of(
        cls,
        train: pl.DataFrame,
        valid: pl.DataFrame,
        feature_names: Sequence[str],
        offset_feature: str | None,
        fit_start: Callable[[Slates, int], HeadStart],
        soft: bool,
        position_column: str | None,
    ) -> "_Data":
        names = [name for name in feature_names if name != position_column]
        if position_column is not None and len(names) < len(feature_names):
            raise InputError(f"{position_column!r} is the position, unknown when a query is served: no feature of it")
        slates = Slates.of(train, names, "train", soft=soft)
        stopping = Slates.of(valid, names, "valid", soft=soft)
        positions = None if position_column is None else Slates.of(train, [position_column], "train").x[:, 0]
        if positions is not None and (np.isnan(positions).any() or (positions < 1).any()):
            raise InputError(f"train: the column {position_column} must hold positions from 1")
        start = None
        if offset_feature is not None:
            if offset_feature not in names:
                raise InputError(f"the offset {offset_feature!r} is not a feature; one of: {', '.join(names)}")
            start = fit_start(slates, names.index(offset_feature))
        return cls(slates, stopping, start, None if positions is None else positions.astype(np.int32))

    def widened(self, context: Context) -> "_Data":
        """With each row's standing in its slate beside its features."""
        if context == "none":
            return self
        train, valid = (replace(s, x=widened(s.x, s.sizes, context)) for s in (self.train, self.valid))
        return replace(self, train=train, valid=valid)

    def binarised(self, threshold: int) -> "_Data":
        """With relevance of 1 from `threshold` on and 0 below: what the log loss is of; NDCG keeps the grades."""
        relevance = (self.train.relevance >= threshold).astype(np.int32)
        return replace(self, train=replace(self.train, relevance=relevance))


def _boost(
    data: _Data, settings: Mapping[str, Setting], log: Log, *, seed: int, threads: int, rounds: int, patience: int
) -> tuple[str, int]:
    """The model as text, cut at the round that was best on validation, and that round; logs NDCG@10 each round.

    LightGBM's own NDCG is ours (`rankers.slates.Ndcg`), and costs next to nothing: rows are in canonical order, ties
    keep it, and no slate is blank. Soft labels and binarised ones need ours.
    """
    own = np.issubdtype(data.train.relevance.dtype, np.floating) or settings["objective"] == "binary"
    params = {
        **settings,
        "metric": "none" if own or "label_gain" in settings else "ndcg",
        "eval_at": [10],
        "bagging_freq": 1,
        "seed": seed,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    train = _dataset(data.train, data.start, None, params, data.positions)
    valid = _dataset(data.valid, data.start, train, params, None)
    ndcg = Ndcg(data.valid) if params["metric"] == "none" else None

    def judge(scores: Floats, dataset: lgb.Dataset) -> tuple[str, float, bool]:
        return METRIC, ndcg(scores) if ndcg else 0.0, True

    def log_round(env: lgb.callback.CallbackEnv) -> None:
        log({f"valid_{METRIC}": value for _, _, value, _ in env.evaluation_result_list}, env.iteration + 1)

    booster = lgb.train(
        params,
        train,
        num_boost_round=rounds,
        valid_sets=[valid],
        valid_names=["valid"],
        feval=judge if ndcg else None,
        callbacks=[log_round, lgb.early_stopping(patience, verbose=False)],
    )
    return booster.model_to_string(num_iteration=booster.best_iteration), booster.best_iteration


def _dataset(
    slates: Slates,
    start: HeadStart | None,
    reference: lgb.Dataset | None,
    params: Mapping[str, object],
    positions: Ints | None,
) -> lgb.Dataset:
    return lgb.Dataset(
        slates.x,
        label=slates.relevance,
        group=slates.sizes,
        init_score=None if start is None else start(slates.x),
        position=positions,
        reference=reference,
        params=dict(params),
    )
