"""Ragged arithmetic: rows of unequal length stored flat, row i being `values[offsets[i]:offsets[i + 1]]`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Values = NDArray[np.float64]


def offsets_of(lengths: NDArray[Any]) -> Integers:
    """Row lengths [rows] → offsets, int64 [rows + 1]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: NDArray[Any], lengths: NDArray[Any]) -> Integers:
    """start, start + 1, … start + length − 1 of every row, one after another: int64 [sum of lengths]."""
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


def row_sum(values: NDArray[Any], offsets: Integers) -> Values:
    """The sum of every row, 0 for an empty one: float64 [rows]."""
    return _reduce(np.add, values, offsets, 0.0)


def row_min(values: NDArray[Any], offsets: Integers, empty: float = 0.0) -> Values:
    """The smallest value of every row, `empty` for a row without values: float64 [rows]."""
    return _reduce(np.minimum, values, offsets, empty)


def row_max(values: NDArray[Any], offsets: Integers, empty: float = 0.0) -> Values:
    """The largest value of every row, `empty` for a row without values: float64 [rows]."""
    return _reduce(np.maximum, values, offsets, empty)


def _reduce(ufunc: np.ufunc, values: NDArray[Any], offsets: Integers, empty: float) -> Values:
    reduced = np.full(len(offsets) - 1, empty, dtype=np.float64)
    # reduceat gives an empty row the value that follows it, so only the rows that hold something are shown to it.
    filled = offsets[1:] > offsets[:-1]
    if filled.any():
        reduced[filled] = ufunc.reduceat(values, offsets[:-1][filled])
    return reduced


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Values:
    """numerator / denominator, 0 where the denominator is 0: float64, of their shape."""
    quotient = np.zeros(np.shape(numerator), dtype=np.float64)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient
