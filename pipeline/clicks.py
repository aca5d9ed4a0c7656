"""The jobs on click logs: fit click models, derive labels, judge models and rankings (`cascade clicks`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import polars as pl

from pipeline.click_sources import (
    Progress,
    estimates_of,
    fit_model,
    model_of,
    propensities,
    quiet,
    read_labels,
    user_of,
    write_labels,
)
from rankers.clicks.log import PROPENSITY, counts, hold_out, read_log, write_log
from retrieval.errors import InputError
from retrieval.frames import ranked
from retrieval.letor import read_letor
from retrieval.trec import read_run

if TYPE_CHECKING:
    from rankers.clicks.offpolicy import Estimate
    from rankers.clicks.protocol import ClickModel
    from rankers.clicks.quality import Quality

Method: TypeAlias = Literal["model", "ctr", "ips", "dr"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Fitted:
    """A model and how well it predicts sessions that were held out of fitting it."""

    model: "ClickModel"
    quality: "Quality"


def fit(
    log: Path,
    model: str,
    *,
    out: Path | None = None,
    held_out: float = 0.2,
    seed: int = 0,
    smoothing: float = 1.0,
    continuation: float | None = None,
    progress: Progress = quiet,
) -> Fitted:
    """Fit the click model called `model` to a log file and store it in `out`.

    It is judged on `held_out` of the sessions by a model fitted to the others; what is returned and stored is fitted to
    all. smoothing, continuation: see `fit_pbm` and `fit_dbn`. Raises InputError as the fits and `hold_out` do.
    """
    from rankers.clicks.quality import quality
    from rankers.clicks.store import save_model

    clicks = read_log(log)
    rest, held = hold_out(clicks, held_out, seed=seed)
    judged = quality(fit_model(model, rest, smoothing, continuation, progress), held)
    fitted = fit_model(model, clicks, smoothing, continuation, progress)
    if out is not None:
        save_model(fitted, out)
    return Fitted(fitted, judged)


def labels(
    log: Path,
    *,
    method: str,
    model: str | None = None,
    propensity: str | None = None,
    features: Sequence[Path] = (),
    clip: float = 0.01,
    min_dwell: float | None = None,
    grades: Sequence[float] = (),
    out: Path | None = None,
    progress: Progress = quiet,
) -> pl.DataFrame:
    """Relevance labels of a log file: qid, docid, relevance (Float32; Int32 with `grades`, the edges between them).

    method: "model" (what `model`, a name or a folder, says), "ctr" (naive), "ips" or "dr" (`rankers.clicks.labels`).
    propensity: for ips and dr, one of SOURCES or a Parquet file (position, propensity). features: LETOR files, for
    regression-EM, whose regression is also what dr corrects; without it dr corrects the position-based model.
    out: a file for them (`write_labels`). Raises InputError for options that do not fit together, and as each
    step does.
    """
    from rankers.clicks import labels as derive

    _check_labelling(method, model, propensity, features, min_dwell)
    clicks = read_log(log)
    sums = counts(clicks, min_dwell=min_dwell)
    match method:
        case "model":
            found = model_of(str(model), clicks, progress).relevance()
        case "ctr":
            found = derive.click_rate(sums)
        case "ips":
            found = derive.inverse_propensity(sums, propensities(sums, propensity, features, progress), clip=clip)
        case _:
            known = propensities(sums, propensity, features, progress)
            found = derive.doubly_robust(sums, estimates_of(sums, features, progress)[1], known, clip=clip)
    found = derive.graded(found, grades) if grades else found
    if out is not None:
        write_labels(found, out)
    return found


@dataclass(frozen=True)
class Judged:
    """What `evaluate` found. models: by name, on held-out sessions; ndcg: of the run, by whose labels; values: of the
    run, by assumption; support: the share of the run's slots that the log can value, by assumption."""

    models: "dict[str, Quality]"
    ndcg: dict[str, float]
    values: "dict[str, list[Estimate]]"
    support: dict[str, float]
    logged_value: float | None


def evaluate(
    log: Path,
    models: Sequence[str] = (),
    *,
    held_out: float = 0.2,
    seed: int = 0,
    run: Path | None = None,
    labels: Path | None = None,
    propensity: str | None = None,
    k: int = 10,
    progress: Progress = quiet,
) -> Judged:
    """Judge click models on held-out sessions of a log file, and a new ranking by the log.

    models: names, fitted to the sessions that are not held out, or folders of fitted ones. run: a TREC run; judged by
    NDCG@k against `labels` (a Parquet file) and each model's labels, and valued in clicks a page, off-policy, on the
    whole log: by item and position, and, with a `propensity` (SOURCES but regression-em, or a file) or the log's own,
    by position. With a model the position-based value is doubly robust by the first one's labels. Raises InputError
    for a run that shares no query with the log, and as each step does.
    """
    from rankers.clicks.quality import ndcg_by_labels, quality

    if propensity == "regression-em":
        raise InputError("a run is valued by propensities from swap, pbm, log or a file; regression-em is for labels")
    clicks = read_log(log)
    fitted, found = {}, {}
    if models:
        rest, held = hold_out(clicks, held_out, seed=seed)
        fitted = {name: model_of(name, rest, progress) for name in models}
        found = {name: quality(model, held) for name, model in fitted.items()}
    if run is None:
        if labels is not None or not models:
            raise InputError("nothing to evaluate: name models, or give a run (--run), which labels need too")
        return Judged(found, {}, {}, {}, None)
    scored = read_run(run)
    if scored.join(clicks, on="qid", how="semi").is_empty():
        raise InputError(f"{run}: shares no query with {log}")
    sources = {name: model.relevance() for name, model in fitted.items()}
    if labels is not None:
        sources = {str(labels): read_labels(labels), **sources}
    ndcg = {name: ndcg_by_labels(scored, derived, k) for name, derived in sources.items()}
    first = fitted[models[0]].relevance() if models else None
    values, support = _values(clicks, scored, propensity, first, k, progress)
    pages = clicks.select(pl.struct("session", "qid").n_unique()).item()
    top = clicks.filter(pl.col("position") <= k)["click"].sum()
    return Judged(found, ndcg, values, support, float(top / pages))


def evaluate_bandit(logged: Path, policy: Path, *, clip: float = float("inf")) -> "tuple[list[Estimate], float]":
    """Off-policy estimates of the policy that logged the folder `policy` from the log in the folder `logged`, both of
    the Open Bandit Dataset, and what that policy did earn: its click rate in its own log."""
    from rankers.clicks.bandit import policy_of, policy_units, read_bandit_log
    from rankers.clicks.offpolicy import estimates

    theirs = read_bandit_log(policy)
    units = policy_units(read_bandit_log(logged), policy_of(theirs), clip=clip)
    return estimates(units), float(theirs["click"].to_numpy().mean())


def simulate(
    judged: Sequence[Path],
    *,
    out: Path,
    user: str,
    by: str | None = None,
    run: Path | None = None,
    sessions: int = 10_000,
    depth: int = 10,
    eta: float = 1.0,
    noise: float = 0.1,
    swap: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a simulated log of judged LETOR files to `out`: the ranking by feature `by`, or by a TREC `run`, is shown
    to a user called pbm, cascade or dbn (`rankers.clicks.users`). Returns its sizes. Raises InputError as they do."""
    from rankers.clicks.simulate import shown_by
    from rankers.clicks.simulate import simulate as simulate_log

    frame = read_letor(judged)
    if (by is None) == (run is None):
        raise InputError("simulate: name the feature that ranks what is shown (--by), or a TREC run (--run)")
    if by is not None and by not in frame.columns[3:]:
        raise InputError(f"simulate: no feature {by!r}; they are {frame.columns[3]} … {frame.columns[-1]}")
    scores = read_run(run) if run else frame.select("qid", "docid", score=pl.col(str(by)).fill_nan(None).fill_null(0.0))
    shown = shown_by(scores, frame.select("qid", "docid", "relevance"), noise=noise, depth=depth)
    log = simulate_log(shown, user_of(user, eta), sessions=sessions, seed=seed, swap=swap)
    write_log(log, out)
    return {"sessions": sessions, "impressions": log.height, "clicks": int(log["click"].sum()), "out": str(out)}


def _check_labelling(
    method: str, model: str | None, propensity: str | None, features: Sequence[Path], min_dwell: float | None
) -> None:
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if (method == "model") != (model is not None):
        raise InputError("the method model needs a click model (--model NAME or FOLDER), the others take none")
    if method == "model" and min_dwell is not None:
        raise InputError("min-dwell: a click model is fitted to all clicks; use ctr, ips or dr")
    if propensity is not None and method not in ("ips", "dr"):
        raise InputError(f"the method {method} uses no propensities; ips and dr do")
    if features and propensity != "regression-em" and method != "dr":
        raise InputError("features are for the propensity regression-em and for the method dr")


def _values(
    clicks: pl.DataFrame,
    scored: pl.DataFrame,
    propensity: str | None,
    relevance: pl.DataFrame | None,
    k: int,
    progress: Progress,
) -> "tuple[dict[str, list[Estimate]], dict[str, float]]":
    """The off-policy values of a run, by assumption, and their support."""
    from rankers.clicks.offpolicy import estimates
    from rankers.clicks.slate_value import ranking_units, support

    new = ranked(scored, k)
    values = {"item_position": estimates(ranking_units(clicks, new, assume="item_position", k=k))}
    supported = {"item_position": support(clicks, new, assume="item_position", k=k)}
    known = propensities(counts(clicks), propensity, (), progress) if propensity else None
    if known is None and PROPENSITY in clicks.columns:
        # The units take one propensity a position: the log's mean there.
        known = clicks.group_by("position").agg(pl.col(PROPENSITY).mean()).sort("position")
    if known is not None:
        units = ranking_units(clicks, new, assume="position", propensities=known, relevance=relevance, k=k)
        values["position"] = estimates(units)
        supported["position"] = support(clicks, new, assume="position", k=k)
    return values, supported
