"""Phrases: runs of consecutive query terms that stand consecutively in a field."""

from dataclasses import dataclass

import numpy as np

from features.segments import Integers, offsets_of, ranges
from features.terms import QueryTerms

# Only the first terms of a query are aligned: it bounds the work on a query that repeats one word a thousand times.
PHRASE_TERMS = 64
_STRIDE = PHRASE_TERMS + 1


@dataclass(frozen=True)
class Alignment:
    """longest: int64 [pairs], terms in the longest run (1 for a lone term, 0 for none).
    bigrams: int64 [pairs], places of the query whose term and the next are neighbours, in that order, in the field.
    """

    longest: Integers
    bigrams: Integers


def align(terms: QueryTerms, length: Integers, pair: Integers, slot: Integers, position: Integers) -> Alignment:
    """Align every pair's field with its query's first 64 terms.

    length: int64 [pairs], of the field; pair, slot, position: int64 [hits].

    A hit at `position` of the query's term number `place` lies on the diagonal position − place, and a run is a stretch
    of places without a gap on one diagonal. Diagonals are numbered so that those of two pairs never meet; then sorting
    diagonal · 65 + place puts every run into neighbouring keys that differ by exactly 1.
    """
    hit, place = _places(terms, slot)
    starts = offsets_of(length + PHRASE_TERMS)
    diagonal = starts[pair[hit]] + position[hit] + PHRASE_TERMS - 1 - place
    keys = np.sort(diagonal * _STRIDE + place)
    longest = np.zeros(len(length), dtype=np.int64)
    if not len(keys):
        return Alignment(longest, longest)
    continued = np.diff(keys) == 1
    first = np.concatenate([[0], np.flatnonzero(~continued) + 1])
    np.maximum.at(longest, _pair_of(keys[first], starts), np.diff(np.append(first, len(keys))))
    followed = keys[:-1][continued]
    found = np.unique(_pair_of(followed, starts) * _STRIDE + followed % _STRIDE)
    return Alignment(longest, np.bincount(found // _STRIDE, minlength=len(length)))


def _pair_of(keys: Integers, starts: Integers) -> Integers:
    return np.searchsorted(starts, keys // _STRIDE, side="right") - 1


def _places(terms: QueryTerms, slot: Integers) -> tuple[Integers, Integers]:
    """Every (hit, place in the query of the hit's term); the hit of a term that the query repeats has several."""
    place_of = ranges(np.zeros(len(terms.sequence), dtype=np.int64), terms.sequence.lengths)
    read = np.flatnonzero((terms.slot_of >= 0) & (place_of < PHRASE_TERMS))
    by_slot = read[np.argsort(terms.slot_of[read], kind="stable")]
    count = np.bincount(terms.slot_of[by_slot], minlength=len(terms.term))
    hit = np.repeat(np.arange(len(slot)), count[slot])
    return hit, place_of[by_slot[ranges(offsets_of(count)[slot], count[slot])]]
