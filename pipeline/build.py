"""The only factory: every choice of an implementation is made here, and its library is imported in that branch."""

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pipeline.config import RANKERS
from retrieval.errors import InputError, MissingExtra

if TYPE_CHECKING:
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


def fit_ranker(name: str, train: pl.DataFrame, valid: pl.DataFrame, *, seed: int, log: "Log") -> "Ranker":
    """Fit the ranker called `name` on FEATURES with `relevance`, early-stopped on `valid`.

    Every column but qid, docid and relevance is a feature. The networks and the trees start from the fused score.
    """
    feature_names = [column for column in train.columns if column not in ("qid", "docid", "relevance")]
    match name:
        case "pointwise":
            from rankers.trees import fit_pointwise

            return fit_pointwise(train, valid, feature_names=feature_names, seed=seed, log=log)
        case "lambdamart":
            from rankers.trees import fit_lambdamart

            return fit_lambdamart(train, valid, feature_names=feature_names, seed=seed, log=log)
        case "ranknet":
            from rankers.training import fit_ranknet

            return fit_ranknet(train, valid, feature_names=feature_names, seed=seed, log=log)
        case _:
            raise InputError(f"unknown ranker {name!r}; known: {', '.join(RANKERS)}")
