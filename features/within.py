"""Scores made comparable within one query's candidates, and the signals that cross words and meaning.

These are the only features in which a pair depends on the other candidates of its query. Each takes the `Pairs` and
returns float64 [pairs]. NaN where the score itself is missing.
"""

import numpy as np
from numpy.typing import NDArray

from features.lexical import bm25
from features.pairs import Pairs
from features.segments import Values, ratio, row_max, row_min, row_sum

FEEDBACK = 3


def minmax(values: Values, pairs: Pairs) -> Values:
    """(v − min) / (max − min) over each query's candidates (Lee 1997); 0 where all are equal."""
    low, high = row_min(values, pairs.offsets)[pairs.query], row_max(values, pairs.offsets)[pairs.query]
    return ratio(values - low, high - low)


def zscore(values: Values, pairs: Pairs) -> Values:
    """(v − mean) / standard deviation over each query's candidates; 0 where all are equal."""
    size = np.diff(pairs.offsets)
    centred = values - ratio(row_sum(values, pairs.offsets), size)[pairs.query]
    deviation = np.sqrt(ratio(row_sum(np.square(centred), pairs.offsets), size))
    # Rounding leaves equal values a deviation that is not quite 0, which would blow it up to ±1.
    constant = row_min(values, pairs.offsets) == row_max(values, pairs.offsets)
    return ratio(centred, np.where(constant, 0.0, deviation)[pairs.query])


def below_top(values: Values, pairs: Pairs) -> Values:
    """The largest value among the query's candidates, minus v."""
    return row_max(values, pairs.offsets)[pairs.query] - values


def bm25_minmax(pairs: Pairs) -> Values:
    """BM25 of title and text, min-max normalised over the query's candidates."""
    return minmax(bm25(pairs.whole), pairs)


def bm25_zscore(pairs: Pairs) -> Values:
    """BM25 of title and text, standardised over the query's candidates."""
    return zscore(bm25(pairs.whole), pairs)


def bm25_of_top(pairs: Pairs) -> Values:
    """BM25 of title and text over the largest among the query's candidates."""
    values = bm25(pairs.whole)
    return ratio(values, row_max(values, pairs.offsets)[pairs.query])


def cosine(pairs: Pairs) -> Values:
    """The cosine of query and document vector; NaN without vectors."""
    return pairs.cosine


def cosine_minmax(pairs: Pairs) -> Values:
    """The cosine, min-max normalised over the query's candidates."""
    return minmax(pairs.cosine, pairs)


def cosine_zscore(pairs: Pairs) -> Values:
    """The cosine, standardised over the query's candidates."""
    return zscore(pairs.cosine, pairs)


def cosine_below_top(pairs: Pairs) -> Values:
    """How far the cosine lies below the largest among the query's candidates."""
    return below_top(pairs.cosine, pairs)


def weaker_signal(pairs: Pairs) -> Values:
    """min(BM25, cosine), both min-max normalised over the query's candidates (CombMIN; Fox & Shaw 1994)."""
    return np.minimum(bm25_minmax(pairs), cosine_minmax(pairs))


def stronger_signal(pairs: Pairs) -> Values:
    """max(BM25, cosine), both min-max normalised over the query's candidates (CombMAX; Fox & Shaw 1994)."""
    return np.maximum(bm25_minmax(pairs), cosine_minmax(pairs))


def mean_signal(pairs: Pairs) -> Values:
    """The mean of BM25 and cosine, both min-max normalised over the query's candidates (CombSUM; Fox & Shaw 1994)."""
    return (bm25_minmax(pairs) + cosine_minmax(pairs)) / 2


def both_signals(pairs: Pairs) -> Values:
    """BM25 · cosine, both min-max normalised over the query's candidates: high only where words and meaning agree."""
    return bm25_minmax(pairs) * cosine_minmax(pairs)


def feedback(pairs: Pairs) -> Values:
    """The mean cosine to the query's other candidates among its three best by `mean_signal`; 0 when it has no other.

    Pseudo-relevance feedback, Rocchio 1971, in the space of the dense stage. NaN without vectors.
    """
    if pairs.document_vectors is None:
        return np.full(len(pairs), np.nan)
    best = _best(mean_signal(pairs), pairs, FEEDBACK)
    summed = np.zeros((len(pairs.offsets) - 1, pairs.document_vectors.shape[1]), dtype=np.float32)
    np.add.at(summed, pairs.query[best], pairs.document_vectors[best])
    total = np.einsum("pd,pd->p", summed[pairs.query], pairs.document_vectors).astype(np.float64)
    count = np.bincount(pairs.query[best], minlength=len(summed))[pairs.query]
    total[best] -= 1
    count[best] -= 1
    return ratio(total, count)


def _best(values: Values, pairs: Pairs, depth: int) -> NDArray[np.int64]:
    """The pairs with the `depth` largest values of each query, ties by document row: int64."""
    order = np.lexsort((pairs.row, -values, pairs.query))
    place = np.arange(len(pairs)) - pairs.offsets[pairs.query]
    return order[place < depth]
