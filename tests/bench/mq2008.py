"""LETOR 4.0's MQ2008 in its five published folds, and its figure: what tests and benchmarks share."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval.letor import check_splits, read_letor
from retrieval.metrics import evaluate, per_query

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "data" / "mq2008"
PARTS = 5
METRIC = "ndcg_exp_cut_10"
BLANK = "one"
"""Gain 2^grade - 1, and a query with nothing relevant counts 1: the convention of LightGBM, XGBoost and most papers."""

Fold = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]


def fold(number: int, folder: Path = FOLDER) -> Fold:
    """Fold `number` (1 to 5) as judged FEATURES (train, valid, test): three parts, the next one, the one after that."""
    parts = [folder / f"S{(number - 1 + step) % PARTS + 1}.txt.gz" for step in range(PARTS)]
    splits = {"train": read_letor(parts[:3]), "valid": read_letor(parts[3:4]), "test": read_letor(parts[4:])}
    same = check_splits(splits)
    return same["train"], same["valid"], same["test"]


def folds(folder: Path = FOLDER) -> Iterator[Fold]:
    """The five folds (train, valid, test): fold 1 is S1-S3, S4, S5, and each next one rotates."""
    return (fold(number, folder) for number in range(1, PARTS + 1))


def feature_names(frame: pl.DataFrame) -> list[str]:
    """The feature columns of a frame of `folds`: f1 … f46."""
    return [column for column in frame.columns if column not in ("qid", "docid", "relevance")]


def scored(frame: pl.DataFrame, scores: npt.NDArray[np.floating]) -> pl.DataFrame:
    """SCORED: the pairs of `frame` with their `scores` [n], in the order of its rows."""
    return frame.select("qid", "docid", score=pl.Series(scores, dtype=pl.Float32))


def ndcg(frame: pl.DataFrame, scores: npt.NDArray[np.floating]) -> float:
    """Mean NDCG@10 over the queries of `frame` ranked by `scores` [n], exponential gain, blank = one."""
    return evaluate(scored(frame, scores), frame.select("qid", "docid", "relevance"), [METRIC], BLANK)[METRIC]


def ndcg_per_query(frame: pl.DataFrame, scores: npt.NDArray[np.floating]) -> pl.DataFrame:
    """As `ndcg`, a row a query: qid and ndcg_exp_cut_10, null where nothing is relevant."""
    return per_query(scored(frame, scores), frame.select("qid", "docid", "relevance"), [METRIC])
