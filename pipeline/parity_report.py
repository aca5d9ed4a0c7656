"""What a replay of served requests found: which numbers differ, by how much, and for which document to look."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True)
class Difference:
    """A feature, a stage's score (`stage_…`) or the `score` that is not the same offline.

    requests, documents: how many it touches; missing: documents for which one side only has a number; largest: the
    largest distance between two numbers (None where no two differ); the rest is an example, the largest one.
    """

    what: str
    requests: int
    documents: int
    missing: int
    largest: float | None
    request: str
    query: str
    docid: str
    served: float | None
    offline: float | None


@dataclass(frozen=True)
class Reordered:
    """Requests whose documents came in another order, or are others; an example: the first rank that differs."""

    requests: int
    request: str
    query: str
    rank: int
    served: str | None
    offline: str | None


@dataclass(frozen=True)
class Parity:
    """What a replay found. `features` were compared; `notes`: what else the reader should know."""

    requests: int
    documents: int
    bundles: tuple[str, ...]
    features: tuple[str, ...]
    tolerance: float
    differences: tuple[Difference, ...]
    reordered: Reordered | None
    torn: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        return not self.differences and self.reordered is None

    def as_json(self) -> dict[str, Any]:
        """JSON has no infinity: such a number is given as text."""
        fields = asdict(self)
        for difference in fields["differences"]:
            for name in ("largest", "served", "offline"):
                if difference[name] is not None and np.isinf(difference[name]):
                    difference[name] = str(difference[name])
        return {"equal": self.equal, **fields}


def difference(joined: pl.DataFrame, name: str, tolerance: float) -> Difference | None:
    """How the column `name` differs between serving and the offline path; None where it does not.

    A document that the offline path does not have at all is a matter of order, not of values.
    """
    there = joined.filter(pl.col("score_offline").is_not_null())
    served, offline = (_numbers(there[column]) for column in (name, f"{name}_offline"))
    differs = _differs(served, offline, tolerance)
    if not differs.any():
        return None
    lone = np.isnan(served) != np.isnan(offline)
    with np.errstate(invalid="ignore"):
        distance = np.where(differs & ~lone, np.abs(served.astype(np.float64) - offline), -1.0)
    at = int(np.argmax(np.where(lone, np.inf, distance)))
    row = there.row(at, named=True)
    return Difference(
        what=name,
        requests=there.filter(pl.Series(differs))["id"].n_unique(),
        documents=int(differs.sum()),
        missing=int(lone.sum()),
        largest=float(distance.max()) if (differs & ~lone).any() else None,
        request=row["id"],
        query=row["query"],
        docid=row["docid"],
        served=_or_none(served[at]),
        offline=_or_none(offline[at]),
    )


def _differs(served: NDArray[np.float32], offline: NDArray[np.float32], tolerance: float) -> NDArray[np.bool_]:
    missing = np.isnan(served) & np.isnan(offline)
    same = served.view(np.uint32) == offline.view(np.uint32)
    if tolerance:
        with np.errstate(invalid="ignore"):
            same |= np.abs(served.astype(np.float64) - offline.astype(np.float64)) <= tolerance
    differs: NDArray[np.bool_] = ~(same | missing)
    return differs


def reordered(requests: pl.DataFrame, joined: pl.DataFrame, runs: pl.DataFrame, tolerance: float) -> Reordered | None:
    """Where the offline path shows other documents, or the same in another order."""
    served = joined.select("id", "rank", "docid", "score_offline")
    both = served.join(runs, on=["id", "rank"], how="full", coalesce=True, suffix="_run")
    wrong = both.filter(pl.col("docid").ne_missing(pl.col("docid_run")))
    if tolerance:
        # A document may stand where another of (nearly) its score stands.
        near = (pl.col("score_offline") - pl.col("score")).abs() <= 2 * tolerance
        wrong = wrong.filter(~near.fill_null(False))
    if wrong.is_empty():
        return None
    order = requests.select("id", "query").with_row_index("at")
    first = wrong.join(order, on="id").sort("at", "rank").row(0, named=True)
    return Reordered(
        requests=wrong["id"].n_unique(),
        request=first["id"],
        query=first["query"],
        rank=first["rank"],
        served=first["docid"],
        offline=first["docid_run"],
    )


def _numbers(column: pl.Series) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = np.ascontiguousarray(column.cast(pl.Float32).fill_null(np.nan).to_numpy())
    return numbers


def _or_none(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)
