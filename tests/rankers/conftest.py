"""One small training run of each ranker, shared by the tests of this room."""

import pytest

from rankers.protocol import Ranker
from rankers.training import fit_ranknet
from rankers.trees import fit_lambdamart, fit_regression
from tests.rankers.synthetic import FEATURES, judged

NAMES = ("regression", "regression from bm25", "lambdamart", "lambdamart from bm25", "ranknet")


def fitted(name: str, train=None, valid=None, log=lambda metrics, step: None, seed: int = 7) -> Ranker:
    """Fit the ranker `name` on the synthetic task, or on the frames given, with a small budget."""
    train = judged(100, seed=1) if train is None else train
    valid = judged(40, seed=2) if valid is None else valid
    shared = {"feature_names": FEATURES, "log": log, "seed": seed, "threads": 1}
    trees = {"rounds": 80, "patience": 30, "min_data_in_leaf": 20, **shared}
    match name:
        case "regression":
            return fit_regression(train, valid, **trees)
        case "regression from bm25":
            return fit_regression(train, valid, offset_feature="bm25", **trees)
        case "lambdamart":
            return fit_lambdamart(train, valid, **trees)
        case "lambdamart from bm25":
            return fit_lambdamart(train, valid, offset_feature="bm25", **trees)
        case "ranknet":
            return fit_ranknet(train, valid, epochs=20, **shared)
    raise ValueError(name)


@pytest.fixture(scope="session")
def rankers() -> dict[str, Ranker]:
    return {name: fitted(name) for name in NAMES}
