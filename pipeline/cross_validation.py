"""Cross-validation by query: which queries a fold trains on, stops on and is scored on, and one fold's score.

A query is whole in one fold. In each fold three disjoint sets of queries meet: those it is scored on are seen by
nothing before; training stops early on a part cut from the other queries (or on a validation split, where there is
one). So the score is of a ranker for which nothing, its number of rounds included, was chosen by the queries that it is
scored on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import Any

import polars as pl

from pipeline.compose import reranked
from rankers.artifact import Setting
from rankers.protocol import Ranker
from retrieval.errors import InputError
from retrieval.frames import QRELS, check
from retrieval.metrics import Blank, fill_blank, per_query
from retrieval.splits import unit_hash

VALID_PARTS = 5
"""One part in five of a fold's training queries stops the training."""

Fit = Callable[..., Ranker]
"""What `pipeline.build.fit_ranker` is."""


@dataclass(frozen=True)
class FoldScore:
    """The metric summed over the queries of a fold that count, and how many they are."""

    total: float
    queries: int

    @property
    def mean(self) -> float:
        return self.total / self.queries


@dataclass(frozen=True)
class Folds:
    """Judged FEATURES in by-query folds. valid: the validation split to stop on, where there is one."""

    train: pl.DataFrame
    valid: pl.DataFrame | None
    queries: pl.DataFrame
    number: int
    seed: int

    @classmethod
    def of(cls, train: pl.DataFrame, valid: pl.DataFrame | None, *, number: int, seed: int) -> "Folds":
        """Deal the queries of `train` (FEATURES with relevance) into `number` folds.

        Raises InputError for fewer than two folds, fewer queries with something relevant than a fold needs, a query in
        both splits, and other columns in `valid`.
        """
        check(train, QRELS, "train")
        if number < 2:
            raise InputError(f"folds must be at least 2; found {number}")
        queries = train.group_by("qid").agg(blank=(pl.col("relevance") <= 0).all())
        relevant = queries.filter(~pl.col("blank")).height
        # Every fold leaves out one part in `number`, and must still have a query to learn from and one to stop on.
        needed = 2 * number if valid is None else number
        if relevant < needed:
            raise InputError(f"train: {relevant} queries have a relevant document; {number} folds need {needed}")
        if valid is not None:
            check(valid, QRELS, "valid")
            if set(valid.columns) != set(train.columns):
                other = sorted(set(valid.columns) ^ set(train.columns))
                raise InputError(f"train and valid do not have the same columns: {', '.join(other[:5])}")
            both = valid.join(queries, on="qid", how="semi")["qid"].unique().sort()
            if len(both):
                raise InputError(f"query {both[0]!r} is in train and in valid, one of {len(both)}; keep it in one")
        return cls(train, valid, queries.with_columns(fold=dealt(queries, number, seed)), number, seed)

    def fold(self, number: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        """(what is trained on, what training stops on, what is scored) of fold `number`, from 0."""
        mine = self.queries.filter(pl.col("fold") == number)
        held_out = self.train.join(mine, on="qid", how="semi", maintain_order="left")
        rest = self.queries.filter(pl.col("fold") != number).drop("fold")
        if self.valid is not None:
            return self.train.join(rest, on="qid", how="semi", maintain_order="left"), self.valid, held_out
        stopping = dealt(rest, VALID_PARTS, self.seed + 1) == 0
        parts = (rest.filter(~stopping), rest.filter(stopping))
        train, valid = (self.train.join(part, on="qid", how="semi", maintain_order="left") for part in parts)
        return train, valid, held_out

    def score(
        self, number: int, name: str, settings: Mapping[str, Setting], *, fit: Fit, metric: str, blank: Blank
    ) -> FoldScore:
        """Fit the ranker `name` without fold `number` and judge it there."""
        train, valid, held_out = self.fold(number)
        ranker = fit(name, train, valid, seed=self.seed, log=_unheard, settings=settings)
        run = reranked(held_out, ranker.score(held_out))
        figures = fill_blank(per_query(run, held_out.select(*QRELS), [metric]), blank)[metric].drop_nulls()
        return FoldScore(float(figures.sum()), len(figures))


def _unheard(metrics: Mapping[str, float], step: int) -> None:
    """A fold's learning curve is not kept."""


def dealt(queries: pl.DataFrame, parts: int, seed: int) -> pl.Series:
    """The part, from 0, of each row of `queries` (qid, blank), by the hash of its qid alone among those like it.

    Queries with nothing relevant, and the others, are dealt out one after another in the order of their hash: parts
    are as even as can be in both, and depend on neither row order nor machine.
    """
    hashes = [unit_hash(qid, seed) for qid in queries["qid"]]
    order = (
        queries.select("qid", "blank", hash=pl.Series(hashes, dtype=pl.Float64))
        .with_row_index("row")
        .sort("blank", "hash", "qid")
        .with_columns(part=pl.int_range(pl.len(), dtype=pl.Int64) % parts)
    )
    return order.sort("row")["part"]


def data_fingerprint(train: pl.DataFrame, valid: pl.DataFrame | None) -> str:
    """SHA-256 over both frames, column by column, so that no second copy of them is made; row order counts."""
    digest = sha256()
    for split, frame in (("train", train), ("valid", valid)):
        for column in frame.get_columns() if frame is not None else ():
            buffer: Any = BytesIO()
            column.rechunk().to_frame().write_ipc(buffer, compat_level=pl.CompatLevel.oldest())
            digest.update(f"{split}\0{column.name}\0".encode())
            digest.update(buffer.getbuffer())
    return digest.hexdigest()
