"""The published folds: every query is judged once, and the figure is the one that LightGBM's convention gives."""

import numpy as np
import polars as pl
import pytest

from tests.bench import mq2008

pytestmark = pytest.mark.skipif(not mq2008.FOLDER.is_dir(), reason="needs ../shared/data/mq2008")


def test_each_query_is_tested_once_and_validated_once_in_another_fold() -> None:
    folds = list(mq2008.folds())
    tested = [qid for _, _, test in folds for qid in test["qid"].unique()]
    validated = [qid for _, valid, _ in folds for qid in valid["qid"].unique()]
    assert len(tested) == len(set(tested)) == 784
    assert sorted(tested) == sorted(validated)
    for train, valid, test in folds:
        assert train["qid"].n_unique() + valid["qid"].n_unique() + test["qid"].n_unique() == 784
        assert mq2008.feature_names(train) == [f"f{n}" for n in range(1, 47)]


def test_the_figure_is_exponential_gain_with_a_blank_query_as_one() -> None:
    _, _, test = mq2008.fold(1)
    scores = np.random.default_rng(0).random(test.height)
    figures = []
    for _, rows in test.with_columns(score=pl.Series(scores)).group_by("qid"):
        grades = rows.sort("score", descending=True)["relevance"].to_numpy()
        gains = [(2.0 ** ranking[:10] - 1) @ (1 / np.log2(np.arange(2, 12))[: len(ranking)])
                 for ranking in (grades, np.sort(grades)[::-1])]  # fmt: skip
        figures.append(gains[0] / gains[1] if gains[1] else 1.0)
    assert mq2008.ndcg(test, scores) == pytest.approx(np.mean(figures), abs=1e-6)
    per_query = mq2008.ndcg_per_query(test, scores)["ndcg_exp_cut_10"]
    assert per_query.null_count() == sum(figure == 1.0 for figure in figures) - (per_query == 1.0).sum()
