"""A query is scored the same, bit by bit, alone (as it is served) and among others (as it was judged)."""

import numpy as np
import polars as pl
import pytest

from rankers.protocol import Ranker
from rankers.training import fit_network
from rankers.trees import fit_lambdamart
from tests.rankers.synthetic import FEATURES, judged


def fitted(name: str) -> Ranker:
    frames = (judged(60, seed=1), judged(30, seed=2))
    shared = {"feature_names": FEATURES, "log": lambda metrics, step: None}
    if name == "lambdamart":
        return fit_lambdamart(*frames, rounds=10, min_data_in_leaf=20, **shared)
    return fit_network(name, *frames, epochs=2, **shared)


@pytest.mark.parametrize("name", ["ranknet", "softmax+attention", "lambdamart"])
def test_scores_do_not_depend_on_the_other_queries_of_the_frame(name: str) -> None:
    ranker = fitted(name)
    rng = np.random.default_rng(3)
    ragged = judged(80, seed=4).drop("relevance")
    ragged = ragged.filter(pl.Series(rng.random(ragged.height) < 0.7)).sort("qid", maintain_order=True)
    together = ranker.score(ragged)
    alone = np.concatenate([ranker.score(query) for _, query in ragged.group_by("qid", maintain_order=True)])
    np.testing.assert_array_equal(together, alone)
