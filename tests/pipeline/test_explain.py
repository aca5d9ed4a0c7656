"""A search explains the scores that it shows: of all candidates together, as they were scored."""

import numpy as np
import polars as pl
import pytest

from pipeline.searcher import Searcher
from tests.pipeline.serving import CANDIDATES, publish_small, questions


@pytest.fixture(scope="module", params=["softmax+attention", "lambdamart"])
def searcher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    home = tmp_path_factory.mktemp("home")
    publish_small(home, system=request.param)
    return Searcher.open(home)


def reasons(found: pl.DataFrame) -> pl.DataFrame:
    """A row a document and feature."""
    return found.select("qid", "docid", "score", "contributions").explode("contributions").unnest("contributions")


def test_how_many_are_shown_changes_no_reason(searcher: Searcher) -> None:
    asked = questions().head(4)
    few, all_of_them = (searcher.search(asked, k=k, explain=True) for k in (2, CANDIDATES))
    assert few.height == 8 < all_of_them.height
    both = reasons(few).join(reasons(all_of_them), on=["qid", "docid", "feature"], how="left", suffix="_all")
    np.testing.assert_array_equal(both["contribution"], both["contribution_all"])


def test_reasons_of_those_shown_add_up_to_how_their_scores_differ(searcher: Searcher) -> None:
    found = searcher.search(questions().head(4), k=3, explain=True)
    assert found["score"].n_unique() > 4
    sums = reasons(found).group_by("qid", "docid", "score").agg(pl.col("contribution").sum())
    base = sums.select("qid", base=pl.col("score") - pl.col("contribution"))  # one number a query
    assert base.group_by("qid").agg(pl.col("base").max() - pl.col("base").min())["base"].max() < 1e-3
