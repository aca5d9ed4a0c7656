"""What every ranker is, whatever it learned with: scores, reasons for them, and a folder that it is stored in."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

Family: TypeAlias = Literal["pointwise", "pairwise", "listwise"]
Floats: TypeAlias = npt.NDArray[np.floating]

Log: TypeAlias = Callable[[Mapping[str, float], int], None]
"""`log(metrics, step)`: training calls it once a step (boosting round or epoch), from 1; whoever trains passes it."""


class Ranker(Protocol):
    """A fitted ranking model over named features."""

    @property
    def name(self) -> str:
        """What leaderboards call it: "lambdamart"."""
        ...

    @property
    def family(self) -> Family:
        """What its loss compares: one document, a pair, or the whole list."""
        ...

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns that it reads, in the order of `explain`."""
        ...

    def score(self, features: pl.DataFrame) -> Floats:
        """Score each row of a FEATURES frame, float32 [n], higher is better, comparable within a query only.

        Columns are taken by name, in any order; NaN and null mean missing. Raises InputError when one is not there or
        holds an infinite value.
        """
        ...

    def explain(self, features: pl.DataFrame) -> Floats:
        """What each feature adds to the score, float64 [n, F + 1]: a column a feature, the base value last.

        A row sums to the row's score (to 1e-3 for networks, whose contributions are an integral).
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the artifact that `rankers.artifact.load_ranker` reads."""
        ...
