"""How near, and in which order, the query terms stand in a field. Each takes the `Field` and returns float64 [pairs].

"Neighbours" is as the analysis leaves the text: a stopword between two terms does not part them. The phrase features
read the first 64 terms of a query.
"""

import numpy as np

from features.alignment import PHRASE_TERMS
from features.lexical import K1, saturation
from features.pairs import Field
from features.segments import Integers, Values, ratio, row_min, row_sum


def longest_phrase(field: Field) -> Values:
    """The longest run of consecutive query terms found consecutively in the field, over the query's length."""
    return ratio(field.alignment.longest, _query_length(field))


def bigrams(field: Field) -> Values:
    """The share of neighbouring query terms that are neighbours, in that order, in the field.

    After the ordered window of Metzler & Croft 2005.
    """
    return ratio(field.alignment.bigrams, np.maximum(_query_length(field) - 1, 0))


def _query_length(field: Field) -> Integers:
    lengths: Integers = np.minimum(field.cells.terms.sequence.lengths, PHRASE_TERMS)
    return lengths[field.cells.query]


def closeness(field: Field) -> Values:
    """1 / the smallest distance between two different query terms; 0 when fewer than two match.

    Tao & Zhai 2007, MinDist.
    """
    near = _neighbours(field)
    distance = np.full(len(field.pair), np.inf)
    distance[near] = field.position[near + 1] - field.position[near]
    return 1 / row_min(distance, field.offsets, empty=np.inf)


def term_proximity(field: Field) -> Values:
    """BM25TP's proximity: Σ min(1, idf) · a · (k1 + 1) / (a + K), a = Σ neighbour's idf / distance².

    Büttcher, Clarke & Lushman 2006, section 2; K as in `lexical.bm25`.
    """
    near = _neighbours(field)
    left, right = field.cell[near], field.cell[near + 1]
    decay = 1 / np.square((field.position[near + 1] - field.position[near]).astype(np.float64))
    idf, cells = field.cells.idf, len(field.cells.slot)
    gathered = np.bincount(left, idf[right] * decay, cells) + np.bincount(right, idf[left] * decay, cells)
    norm = np.repeat(saturation(field), np.diff(field.cells.offsets))
    return row_sum(np.minimum(1, idf) * gathered * (K1 + 1) / (gathered + norm), field.cells.offsets)


def _neighbours(field: Field) -> Integers:
    """Hits whose next hit is of the same pair and of another term. Two nearest different terms are always such hits."""
    return np.flatnonzero((np.diff(field.pair) == 0) & (np.diff(field.cell) != 0))


def earliness(field: Field) -> Values:
    """1 / (1 + the position of the first query term in the field); 0 when there is none."""
    return 1 / (1 + row_min(field.position, field.offsets, empty=np.inf))
