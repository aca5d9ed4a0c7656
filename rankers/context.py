"""How a document's features stand among those of its slate: what a ranker of single documents cannot see by itself."""

from typing import Literal, TypeAlias, get_args

import numpy as np

from rankers.protocol import Floats
from rankers.slates import Ints
from retrieval.errors import InputError

Context: TypeAlias = Literal["none", "zscore", "rank"]


def check_context(context: str) -> None:
    """Raise InputError for a name that is none of `Context`."""
    if context not in get_args(Context):
        raise InputError(f"unknown context {context!r}; known: {', '.join(get_args(Context))}")


def widened(x: Floats, sizes: Ints, context: Context) -> Floats:
    """Rows x [n, F] of slates in canonical order with their standing in the slate beside them, float32 [n, 2F].

    "zscore": less the slate's mean, over its standard deviation, 0 where it does not vary; "rank": the share of the
    slate's present values that are below, equal ones counting half. Missing stays missing, and counts for nothing.
    "none" gives x itself.
    """
    if context == "none" or not len(x):
        return x if context == "none" else np.concatenate([x, x], axis=1)
    slate = np.repeat(np.arange(len(sizes)), sizes)
    standing = _zscores(x, sizes, slate) if context == "zscore" else _shares(x, sizes, slate)
    return np.concatenate([x, standing.astype(np.float32)], axis=1)


def folded(reasons: Floats, features: int) -> Floats:
    """Contributions [n, 2F + 1] of widened rows, each standing's added to that of its feature: [n, F + 1]."""
    if reasons.shape[1] == features + 1:
        return reasons
    together: Floats = np.concatenate(
        [reasons[:, :features] + reasons[:, features : 2 * features], reasons[:, -1:]], axis=1
    )
    return together


def _zscores(x: Floats, sizes: Ints, slate: Ints) -> Floats:
    starts = np.cumsum(sizes) - sizes
    present = ~np.isnan(x)
    filled = np.where(present, x, 0.0).astype(np.float64)
    count = np.maximum(np.add.reduceat(present, starts, axis=0, dtype=np.int64), 1)
    centred = np.where(present, filled - (np.add.reduceat(filled, starts, axis=0) / count)[slate], 0.0)
    spread = np.sqrt(np.add.reduceat(centred**2, starts, axis=0) / count)[slate]
    # A spread of rounding errors is none: values that are all alike stand nowhere.
    varies = spread > 1e-6 * np.maximum(np.abs(filled), 1e-30)
    standing: Floats = np.divide(centred, spread, out=np.zeros_like(centred), where=varies)
    return np.where(present, standing, np.nan)


def _shares(x: Floats, sizes: Ints, slate: Ints) -> Floats:
    starts = np.cumsum(sizes) - sizes
    standing = np.empty(x.shape)
    place = np.arange(len(x)) - starts[slate]
    for column, values in enumerate(x.T):
        order = np.lexsort((values, slate))  # NaN last in its slate
        ordered, missing = values[order], np.isnan(values)
        # `slate` itself is in order, so the sorted rows of a slate stand where its rows did.
        new = np.ones(len(x), dtype=bool)
        new[1:] = (ordered[1:] != ordered[:-1]) | (slate[1:] != slate[:-1])
        tie = np.cumsum(new) - 1
        middle = (np.bincount(tie, place) / np.bincount(tie))[tie] + 0.5
        present = np.maximum(np.add.reduceat(~missing, starts, dtype=np.int64), 1)[slate]
        standing[order, column] = middle
        standing[:, column] = np.where(missing, np.nan, standing[:, column] / present)
    return standing
