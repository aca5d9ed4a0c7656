"""The query side of a batch: its distinct terms (slots), and the (pair, slot) cells that figures are reduced from."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from features.segments import Integers, Values, offsets_of, ranges, row_sum
from retrieval.lexicon import UNKNOWN, Lexicon, Ragged


@dataclass(frozen=True)
class QueryTerms:
    """The analysed queries of a batch.

    sequence: the terms in order, repetitions and UNKNOWN included, a row a query.
    slot_of: int64 [tokens of sequence], the slot of each, −1 for an unknown term.
    offsets: int64 [queries + 1], the slots of each query; term (vocabulary id, ascending within a query), count
    (occurrences in the query), idf, share (df / Σ df, the term's part of the corpus): [slots].
    unknown_idf: the idf of a term that no document holds.
    """

    sequence: Ragged
    slot_of: Integers
    offsets: Integers
    term: Integers
    count: Integers
    idf: Values
    share: Values
    unknown_idf: float

    @classmethod
    def of(cls, sequence: Ragged, lexicon: Lexicon) -> Self:
        known = np.flatnonzero(sequence.ids != UNKNOWN)
        size = max(len(lexicon.vocabulary), 1)
        owner = np.repeat(np.arange(len(sequence)), sequence.lengths)[known]
        keys, slots, count = np.unique(owner * size + sequence.ids[known], return_inverse=True, return_counts=True)
        slot_of = np.full(len(sequence.ids), -1, dtype=np.int64)
        slot_of[known] = slots
        owners, term = np.divmod(keys, size)
        offsets = offsets_of(np.bincount(owners, minlength=len(sequence)))
        unknown_idf = float(np.log1p((len(lexicon.docids) + 0.5) / 0.5))
        idf = lexicon.idf[term].astype(np.float64)
        frequency = lexicon.document_frequency
        share = frequency[term] / max(int(frequency.sum(dtype=np.int64)), 1)
        return cls(sequence, slot_of, offsets, term, count, idf, share, unknown_idf)

    @cached_property
    def unknown(self) -> Integers:
        """Terms of each query that no document holds, repetitions included: int64 [queries]."""
        return self.sequence.lengths - self.known

    @cached_property
    def known(self) -> Integers:
        """Terms of each query that some document holds, repetitions included: int64 [queries]."""
        return row_sum(self.count, self.offsets).astype(np.int64)

    @cached_property
    def distinct(self) -> Integers:
        """Distinct known terms, plus every unknown one (unknown terms cannot be told apart): int64 [queries]."""
        return np.diff(self.offsets) + self.unknown

    @cached_property
    def idf_sum(self) -> Values:
        """The idf of the terms counted by `distinct`, summed: float64 [queries]."""
        return row_sum(self.idf, self.offsets) + self.unknown * self.unknown_idf


@dataclass(frozen=True)
class Cells:
    """(pair, slot of its query), contiguous by pair.

    terms: the queries' terms; query: int64 [pairs], the query of each pair.
    """

    terms: QueryTerms
    query: Integers

    @cached_property
    def offsets(self) -> Integers:
        """int64 [pairs + 1]."""
        return offsets_of(np.diff(self.terms.offsets)[self.query])

    @cached_property
    def slot(self) -> Integers:
        """int64 [cells]."""
        return ranges(self.terms.offsets[self.query], np.diff(self.offsets))

    @cached_property
    def idf(self) -> Values:
        """float64 [cells]."""
        return self.terms.idf[self.slot]

    @cached_property
    def count(self) -> Integers:
        """Occurrences of the term in the query: int64 [cells]."""
        return self.terms.count[self.slot]
