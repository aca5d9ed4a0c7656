"""What every feature is computed from: a batch of (query, document) pairs, and where the query terms stand in them.

Three flat layouts carry everything, so that no feature loops over pairs:
  slots  one entry for each distinct known term of each query;
  cells  one entry for each (pair, slot of its query), contiguous by pair: per-pair figures are row reductions of cells;
  hits   one entry for each occurrence of a query term in a field of the pair's document, by pair, then by position.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.alignment import Alignment, align
from features.segments import Integers, Values, offsets_of, ranges
from features.terms import Cells, QueryTerms
from retrieval.errors import InputError
from retrieval.lexicon import Lexicon, Ragged


@dataclass(frozen=True)
class Field:
    """Where the query terms of every pair stand in one field of its document.

    length: int64 [pairs], in terms; mean_length: over the corpus (1 where the field is empty throughout).
    pair, cell, position: int64 [hits], positions from 0 within the field.
    """

    cells: Cells
    length: Integers
    mean_length: float
    pair: Integers
    cell: Integers
    position: Integers

    @cached_property
    def offsets(self) -> Integers:
        """The hits of each pair: int64 [pairs + 1]."""
        return offsets_of(np.bincount(self.pair, minlength=len(self.length)))

    @cached_property
    def tf(self) -> Integers:
        """Occurrences in the field of every cell's term: int64 [cells]."""
        return np.bincount(self.cell, minlength=len(self.cells.slot))

    @cached_property
    def matched_idf(self) -> Values:
        """The idf of every cell whose term the field holds, 0 for the others: float64 [cells]."""
        return np.where(self.tf > 0, self.cells.idf, 0.0)

    @cached_property
    def alignment(self) -> Alignment:
        """The runs of consecutive query terms that stand consecutively in the field."""
        return align(self.cells.terms, self.length, self.pair, self.cells.slot[self.cell], self.position)

    def part(self, kept: NDArray[np.bool_], shift: Integers, length: Integers, mean_length: float) -> "Field":
        """The field made of the hits that `kept` marks, their positions moved back by `shift` [pairs]."""
        pair = self.pair[kept]
        return Field(self.cells, length, mean_length, pair, self.cell[kept], self.position[kept] - shift[pair])


@dataclass(frozen=True)
class Stage:
    """What an earlier stage said: score float64 [pairs] (NaN: not returned), rank int64 [pairs] (0: not returned)."""

    score: Values
    rank: Integers


@dataclass(frozen=True)
class Vectors:
    """Unit vectors, float32: queries [queries, D] of the batch, documents [documents, D] of the corpus, and their
    centroid [D] (not of unit length)."""

    queries: NDArray[np.float32]
    documents: NDArray[np.float32]
    centroid: NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """A batch of pairs, ordered by query, then by document row.

    query: int64 [pairs], ascending index into `terms` and `vectors.queries`; row: int64 [pairs], document rows.
    """

    lexicon: Lexicon
    terms: QueryTerms
    query: Integers
    row: Integers
    stages: Mapping[str, Stage]
    vectors: Vectors | None

    def __len__(self) -> int:
        return len(self.query)

    @cached_property
    def offsets(self) -> Integers:
        """The pairs of each query: int64 [queries + 1]."""
        return offsets_of(np.bincount(self.query, minlength=len(self.terms.sequence)))

    @cached_property
    def cells(self) -> Cells:
        return Cells(self.terms, self.query)

    @cached_property
    def whole(self) -> Field:
        """Title, then text, as one field."""
        field = self.lexicon.whole
        starts = field.offsets[self.row]
        length = field.offsets[self.row + 1] - starts
        at = ranges(starts, length)
        local_of, slot_at = self._lookup()
        local = local_of[field.ids[at]]
        kept = np.flatnonzero(local >= 0)
        pair = np.repeat(np.arange(len(self)), length)[kept]
        slot = slot_at[self.query[pair], local[kept]]
        mine = slot >= 0
        kept, pair = kept[mine], pair[mine]
        cell = self.cells.offsets[pair] + slot[mine]
        return Field(self.cells, length, _mean_length(field), pair, cell, at[kept] - starts[pair])

    def _lookup(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Term id → column, and [query, column] → slot counted from the query's first; −1 where there is none.

        Two small gathers a token in place of a search: columns are only the terms that some query of the batch has.
        """
        terms = self.terms
        columns = np.unique(terms.term)
        local_of = np.full(max(len(self.lexicon.vocabulary), 1), -1, dtype=np.int32)
        local_of[columns] = np.arange(len(columns))
        widths = np.diff(terms.offsets)
        slot_at = np.full((len(widths), len(columns)), -1, dtype=np.int32)
        owner = np.repeat(np.arange(len(widths)), widths)
        slot_at[owner, local_of[terms.term]] = np.arange(len(terms.term)) - terms.offsets[owner]
        return local_of, slot_at

    @cached_property
    def title(self) -> Field:
        whole, length = self.whole, self._title_length
        start = np.zeros_like(length)
        return whole.part(whole.position < length[whole.pair], start, length, _mean_length(self.lexicon.title))

    @cached_property
    def text(self) -> Field:
        whole, start = self.whole, self._title_length
        kept = whole.position >= start[whole.pair]
        return whole.part(kept, start, whole.length - start, _mean_length(self.lexicon.text))

    @cached_property
    def _title_length(self) -> Integers:
        offsets = self.lexicon.title.offsets
        return offsets[self.row + 1] - offsets[self.row]

    @cached_property
    def document_vectors(self) -> NDArray[np.float32] | None:
        """The unit vector of every pair's document: float32 [pairs, D]; None without vectors."""
        if self.vectors is None:
            return None
        gathered = self.vectors.documents[self.row]
        if not np.isfinite(gathered).all():
            raise InputError("document vectors hold NaN or infinity; they must be finite")
        return gathered

    @cached_property
    def cosine(self) -> Values:
        """The cosine of query and document: float64 [pairs]; NaN without vectors."""
        if self.vectors is None or self.document_vectors is None:
            return np.full(len(self), np.nan)
        cosine = np.einsum("pd,pd->p", self.vectors.queries[self.query], self.document_vectors)
        clipped: Values = np.clip(cosine, -1, 1).astype(np.float64)
        return clipped


def _mean_length(field: Ragged) -> float:
    return len(field.ids) / max(len(field), 1) or 1.0
