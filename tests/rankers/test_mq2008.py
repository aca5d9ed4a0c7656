"""The rankers at their defaults on a published collection: LETOR 4.0's MQ2008, fold 1."""

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rankers.training import fit_ranknet
from rankers.trees import fit_lambdamart, fit_regression

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "data" / "mq2008"
FEATURES = tuple(f"feature_{i}" for i in range(1, 47))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/data/mq2008")


def part(name: str) -> pl.DataFrame:
    qids, docids, grades, rows = [], [], [], []
    with gzip.open(FOLDER / f"{name}.txt.gz", "rt") as lines:
        for line in lines:
            values, comment = line.split("#")
            grade, qid, *pairs = values.split()
            grades.append(int(grade))
            qids.append(qid.removeprefix("qid:"))
            docids.append(comment.split()[2])
            rows.append([float(pair.partition(":")[2]) for pair in pairs])
    keys = {"qid": qids, "docid": docids, "relevance": pl.Series(grades, dtype=pl.Int32)}
    return pl.DataFrame({**keys, **dict(zip(FEATURES, np.array(rows, dtype=np.float32).T, strict=True))})


def ndcg_exp(frame: pl.DataFrame, scores: np.ndarray) -> float:
    """NDCG@10 as LightGBM and the LETOR papers that use it print it: gain 2^grade - 1, a blank query counts 1."""
    total = []
    for _, rows in frame.with_columns(score=pl.Series(scores)).group_by("qid"):
        found = rows.sort("score", "docid", descending=True)["relevance"].to_numpy()[:10]
        best = np.sort(rows["relevance"].to_numpy())[::-1][:10]
        discount = 1 / np.log2(np.arange(len(best)) + 2)
        ideal = ((2.0**best - 1) * discount).sum()
        total.append(((2.0**found - 1) * discount).sum() / ideal if ideal else 1.0)
    return float(np.mean(total))


@pytest.fixture(scope="module")
def fold() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    return pl.concat([part("S1"), part("S2"), part("S3")]), part("S4"), part("S5")


@pytest.mark.slow
@pytest.mark.parametrize("fit", [fit_regression, fit_lambdamart, fit_ranknet])
def test_beats_every_single_feature_and_keeps_its_level(fit, fold):
    train, valid, test = fold
    ranker = fit(train, valid, feature_names=FEATURES, log=lambda metrics, step: None, threads=1)
    best = max(ndcg_exp(test, test[name].to_numpy()) for name in FEATURES)
    found = ndcg_exp(test, ranker.score(test))
    assert found > best
    assert found > 0.79
