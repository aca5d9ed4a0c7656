"""Term-matching features of one field (title, text, or whole: title then text).

Each takes the `Field` and returns float64 [pairs]; 0 where the query has no known term or the field is empty, unless
the docstring says otherwise. The idf is Lucene's, over title and text as one (as BM25F has it: a term has one rarity).
A term that the query repeats counts once, unless "q" (its occurrences in the query) appears in the formula.
"""

import numpy as np

from features.pairs import Field
from features.segments import Values, ratio, row_max, row_min, row_sum

K1 = 1.2
B = 0.75


def saturation(field: Field) -> Values:
    """BM25's K = k1 · (1 − b + b · length / mean length), k1 = 1.2, b = 0.75: float64 [pairs]."""
    norm: Values = (K1 * (1 - B + B * field.length / field.mean_length)).astype(np.float64)
    return norm


def bm25(field: Field) -> Values:
    """BM25: Σ q · idf · tf / (tf + K), K = 1.2 · (.25 + .75 · length / mean length).

    Robertson & Zaragoza 2009, eq. 3.15, with Lucene's idf and no (k1 + 1) factor, as in `retrieval.bm25`.
    """
    widths = np.diff(field.cells.offsets)
    gained = field.tf / (field.tf + np.repeat(saturation(field), widths))
    return row_sum(field.cells.count * field.cells.idf * gained, field.cells.offsets)


def tf_idf(field: Field) -> Values:
    """TF-IDF: Σ q · (1 + ln tf) · idf over the matched terms; after Salton & Buckley 1988."""
    weight = np.where(field.tf > 0, 1 + np.log(np.maximum(field.tf, 1)), 0.0)
    return row_sum(field.cells.count * weight * field.cells.idf, field.cells.offsets)


def likelihood(field: Field) -> Values:
    """Query likelihood, Dirichlet-smoothed: mean of ln((tf + μ p) / (length + μ)) over the known query terms.

    Zhai & Lafferty 2004, section 3.2. μ is the field's mean length; p, the term's share of the corpus, is df / Σ df.
    """
    mu = field.mean_length
    smoothed = field.tf + mu * field.cells.terms.share[field.cells.slot]
    norm = np.repeat(field.length + mu, np.diff(field.cells.offsets))
    total = row_sum(field.cells.count * np.log(smoothed / norm), field.cells.offsets)
    return ratio(total, field.cells.terms.known[field.cells.query])


def overlap(field: Field) -> Values:
    """Distinct query terms that the field holds."""
    return row_sum(field.tf > 0, field.cells.offsets)


def coverage(field: Field) -> Values:
    """Distinct query terms that the field holds, over all distinct query terms (each unknown one counts as one)."""
    return ratio(overlap(field), field.cells.terms.distinct[field.cells.query])


def idf_coverage(field: Field) -> Values:
    """The matched terms' idf over that of all distinct query terms; an unknown term has the idf of df = 0."""
    return ratio(idf_sum(field), field.cells.terms.idf_sum[field.cells.query])


def rarest_matched(field: Field) -> Values:
    """1 when the field holds the rarest known query term (one of them, where several tie), else 0."""
    rarest = row_max(field.cells.idf, field.cells.offsets)
    matched: Values = ((rarest > 0) & (idf_max(field) == rarest)).astype(np.float64)
    return matched


def missed_idf(field: Field) -> Values:
    """The largest idf among the known query terms that the field lacks; 0 when it holds them all."""
    return row_max(field.cells.idf - field.matched_idf, field.cells.offsets)


def idf_sum(field: Field) -> Values:
    """Σ idf over the matched query terms."""
    return row_sum(field.matched_idf, field.cells.offsets)


def idf_min(field: Field) -> Values:
    """The smallest idf among the matched query terms; 0 when none is matched."""
    lowest = row_min(np.where(field.tf > 0, field.cells.idf, np.inf), field.cells.offsets)
    return np.where(np.isinf(lowest), 0.0, lowest)


def idf_max(field: Field) -> Values:
    """The largest idf among the matched query terms; 0 when none is matched."""
    return row_max(field.matched_idf, field.cells.offsets)


def idf_mean(field: Field) -> Values:
    """The mean idf of the matched query terms; 0 when none is matched."""
    return ratio(idf_sum(field), overlap(field))


def tf_sum(field: Field) -> Values:
    """Occurrences of all query terms in the field."""
    return row_sum(field.tf, field.cells.offsets)


def tf_min(field: Field) -> Values:
    """Occurrences of the known query term that is the least frequent in the field (0 when one is missing)."""
    return row_min(field.tf, field.cells.offsets)


def tf_max(field: Field) -> Values:
    """Occurrences of the query term that is the most frequent in the field."""
    return row_max(field.tf, field.cells.offsets)


def density(field: Field) -> Values:
    """The share of the field's terms that are query terms; in a title, how much of the title the query says."""
    return ratio(tf_sum(field), field.length)
