"""What the query alone and the document alone say. Each takes the `Pairs` and returns float64 [pairs].

Query-only features order nothing by themselves; a ranker uses them to decide how far to trust the others.
"""

import numpy as np
from numpy.typing import NDArray

from features.pairs import Pairs
from features.segments import Integers, Values, offsets_of, ranges, ratio, row_max, row_sum


def query_length(pairs: Pairs) -> Values:
    """Terms of the query, repetitions and unknown ones included."""
    return pairs.terms.sequence.lengths[pairs.query].astype(np.float64)


def query_idf_sum(pairs: Pairs) -> Values:
    """Σ idf over the distinct query terms; an unknown term has the idf of df = 0."""
    return pairs.terms.idf_sum[pairs.query]


def query_idf_mean(pairs: Pairs) -> Values:
    """The mean idf of the distinct query terms."""
    return ratio(pairs.terms.idf_sum, pairs.terms.distinct)[pairs.query]


def query_idf_max(pairs: Pairs) -> Values:
    """The largest idf among the known query terms; 0 when none is known."""
    return row_max(pairs.terms.idf, pairs.terms.offsets)[pairs.query]


def query_unknown_share(pairs: Pairs) -> Values:
    """The share of the query's terms that no document holds."""
    return ratio(pairs.terms.unknown, pairs.terms.sequence.lengths)[pairs.query]


def title_length(pairs: Pairs) -> Values:
    """Terms of the title."""
    return pairs.title.length.astype(np.float64)


def text_length(pairs: Pairs) -> Values:
    """Terms of the text."""
    return pairs.text.length.astype(np.float64)


def distinct_share(pairs: Pairs) -> Values:
    """Distinct terms of title and text over all their terms: low for repetitive documents."""
    rows, document = np.unique(pairs.row, return_inverse=True)
    ids, offsets = _terms(pairs, rows)
    size = max(len(pairs.lexicon.vocabulary), 1)
    keys = np.sort(np.repeat(np.arange(len(rows)), np.diff(offsets)) * size + ids)
    first = np.append(True, np.diff(keys) != 0)[: len(keys)]
    return ratio(np.bincount(keys[first] // size, minlength=len(rows)), np.diff(offsets))[document]


def specificity(pairs: Pairs) -> Values:
    """The mean idf of the terms of title and text: low for generic documents."""
    rows, document = np.unique(pairs.row, return_inverse=True)
    ids, offsets = _terms(pairs, rows)
    return ratio(row_sum(pairs.lexicon.idf[ids].astype(np.float64), offsets), np.diff(offsets))[document]


def centrality(pairs: Pairs) -> Values:
    """The document's mean cosine to the corpus: its inner product with the centroid; NaN without vectors.

    Central documents ("hubs") are near to everything in dense search; Radovanović et al. 2010.
    """
    if pairs.vectors is None or pairs.document_vectors is None:
        return np.full(len(pairs), np.nan)
    mean: Values = np.einsum("pd,d->p", pairs.document_vectors, pairs.vectors.centroid).astype(np.float64)
    return mean


def _terms(pairs: Pairs, rows: Integers) -> tuple[NDArray[np.int32], Integers]:
    """The terms of title and text of the documents `rows`, flat, and their offsets."""
    field = pairs.lexicon.whole
    starts, length = field.offsets[rows], field.lengths[rows]
    return field.ids[ranges(starts, length)], offsets_of(length)
