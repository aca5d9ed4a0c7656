"""The only factory: every choice of an implementation is made here, and its library is imported in that branch."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from rankers.catalogue import ATTENTION, RANKERS, canonical
from retrieval.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from rankers.artifact import Setting
    from rankers.protocol import Log, Ranker
    from retrieval.dense import DenseIndex
    from retrieval.encoder import Encoder


def encoder(name: str) -> "Encoder":
    from retrieval.encoder import Encoder

    return Encoder(name)


def dense_index() -> type["DenseIndex"]:
    """The dense index's class. Raises MissingExtra where neither FAISS package is installed."""
    try:
        from retrieval.dense import DenseIndex
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise MissingExtra(
            'dense retrieval needs FAISS: run `pip install -c requirements.lock ".[cpu]"`, '
            'or ".[gpu]" on a machine with an NVIDIA GPU (never both: they own the same module)'
        ) from None
    return DenseIndex


def load_ranker(folder: Path) -> "Ranker":
    from rankers.artifact import load_ranker

    return load_ranker(folder)


def fit_ranker(
    name: str,
    train: pl.DataFrame,
    valid: pl.DataFrame,
    *,
    seed: int,
    log: "Log",
    settings: "Mapping[str, Setting] | None" = None,
    soft: bool = False,
    threads: int = 1,
    checkpoint: Path | None = None,
) -> "Ranker":
    """Fit the ranker called `name` (`rankers.catalogue`) on FEATURES with `relevance`, early-stopped on `valid`.

    Every column but qid, docid, relevance and a `position_column` that the settings name is a feature. settings: over
    the defaults, by name (`ranker_settings`). soft: `relevance` is Float32, as labels derived from clicks are.
    checkpoint: a file that a network's training is taken up from.

    Raises InputError for an unknown name or setting, and for a blend, which is made of fitted rankers.
    """
    name = canonical(name)
    given = dict(settings or {})
    check_settings(name, given)
    keys = {"qid", "docid", "relevance", given.get("position_column")}
    feature_names = [column for column in train.columns if column not in keys]
    match RANKERS[name].kind:
        case "trees":
            from rankers.trees import fit_trees

            shared: dict[str, Any] = {"seed": seed, "threads": threads, "soft": soft, "log": log}
            return fit_trees(name, train, valid, feature_names=feature_names, **shared, **cast(dict[str, Any], given))
        case "network":
            from rankers.training import fit_network, loss_options

            options = {key: given.pop(key) for key in loss_options(name) if key in given}
            shared = {"seed": seed, "threads": threads, "soft": soft, "log": log, "checkpoint": checkpoint}
            given_here = cast(dict[str, Any], given)
            return fit_network(
                name, train, valid, feature_names=feature_names, loss_options=options, **shared, **given_here
            )
        case "blend":
            raise InputError("a blend is made of fitted rankers, on validation: see rankers.blend.fit_blend")


def check_settings(name: str, settings: "Mapping[str, Setting]") -> None:
    """Raise InputError for a setting that the ranker `name` has not."""
    known = ranker_settings(name)
    if unknown := [key for key in settings if key not in known]:
        raise InputError(f"{name}: unknown setting {unknown[0]!r}; known: {', '.join(known) or 'none'}")


def ranker_settings(name: str) -> list[str]:
    """The settings that `fit_ranker` takes for the ranker `name`."""
    name = canonical(name)
    fixed = {"name", "train", "valid", "feature_names", "log", "seed", "threads", "soft", "checkpoint", "loss_options"}
    match RANKERS[name].kind:
        case "trees":
            from rankers.trees import fit_trees

            return [option for option in inspect.signature(fit_trees).parameters if option not in fixed]
        case "network":
            from rankers.training import fit_network, loss_options

            foreign = {"hidden"} if name.endswith(ATTENTION) else {"width", "heads", "blocks"}
            own = [option for option in inspect.signature(fit_network).parameters if option not in fixed | foreign]
            return own + loss_options(name)
        case "blend":
            return []
