"""What a ranker's scores rest on, over a sample of queries: each row's feature values and contributions."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rankers.protocol import Ranker

ROWS = 1000


@dataclass(frozen=True)
class Reasons:
    """names [F]; values [n, F]: the features as the ranker read them, NaN missing; contributions [n, F] to the score.

    how: what the contributions are, in words.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    contributions: NDArray[np.float64]
    how: str

    def importance(self) -> dict[str, float]:
        """Feature → mean absolute contribution."""
        means = np.abs(self.contributions).mean(axis=0)
        return {name: float(value) for name, value in zip(self.names, means, strict=True)}


def reasons_of(ranker: Ranker, features: pl.DataFrame, *, rows: int = ROWS) -> Reasons:
    """Explain about `rows` rows of `features` (FEATURES): whole queries, spread evenly over their order.

    Whole ones, because a ranker that looks at the slate scores a document by its neighbours too; at least one query.
    """
    sizes = features.group_by("qid", maintain_order=True).len()
    wanted = max(1, round(rows / max(features.height, 1) * sizes.height))
    step = max(1, sizes.height // wanted)
    sample = features.join(sizes.gather_every(step).head(wanted), on="qid", how="semi", maintain_order="left")
    names = tuple(ranker.feature_names)
    columns = [sample[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in names]
    contributions = np.asarray(ranker.explain(sample), dtype=np.float64)[:, : len(names)]
    return Reasons(names, np.column_stack(columns), contributions, _HOW.get(type(ranker).__name__, "contributions"))


_HOW = {"TreeRanker": "exact SHAP values (TreeSHAP)", "NetworkRanker": "integrated gradients"}
