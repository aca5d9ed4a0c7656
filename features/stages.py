"""What the earlier stages said. Each takes the `Pairs` and a stage's name and returns float64 [pairs].

A stage sees only the documents that it returned: a missing score is NaN, a missing rank counts as infinitely deep.
"""

import numpy as np

from features.pairs import Pairs
from features.segments import Values, row_max


def stage_score(pairs: Pairs, stage: str) -> Values:
    """The stage's score as it gave it; NaN where it did not return the document."""
    return pairs.stages[stage].score


def stage_reciprocal_rank(pairs: Pairs, stage: str) -> Values:
    """1 / the stage's rank; 0 where it did not return the document."""
    rank = pairs.stages[stage].rank
    return np.where(rank > 0, 1 / np.maximum(rank, 1), 0.0)


def stage_below_top(pairs: Pairs, stage: str) -> Values:
    """How far the stage's score lies below its largest for the query; NaN where it did not return the document."""
    score = pairs.stages[stage].score
    top = row_max(np.where(np.isnan(score), -np.inf, score), pairs.offsets)
    return top[pairs.query] - score


def stages_found(pairs: Pairs) -> Values:
    """How many stages returned the document."""
    found: Values = np.sum([stage.rank > 0 for stage in pairs.stages.values()], axis=0).astype(np.float64)
    return found
