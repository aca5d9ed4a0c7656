"""The frames' checks, and the one sort."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InputError
from retrieval.frames import QUERIES, RUN, SCORED, check, ranked

scored_rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.text("xyzé", min_size=1, max_size=3), st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
    unique_by=lambda row: row[:2],
    max_size=30,
)


def scored(rows: list[tuple[str, str, float]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(SCORED), orient="row")


@given(scored_rows, st.integers(1, 5))
def test_ranked_is_a_plain_sort_query_by_query(rows: list[tuple[str, str, float]], depth: int) -> None:
    run = ranked(scored(rows), depth)
    expected = []
    for qid in dict.fromkeys(row[0] for row in rows):
        mine = sorted((row for row in rows if row[0] == qid), key=lambda row: (row[2], row[1].encode()), reverse=True)
        expected += [(*row, rank) for rank, row in enumerate(mine[:depth], 1)]
    assert run.rows() == expected
    check(run, RUN, "run")


def test_ranked_refuses_nan_and_a_document_that_appears_twice() -> None:
    with pytest.raises(InputError, match=r"query 'q', document 'd' is NaN"):
        ranked(scored([("q", "d", float("nan"))]))
    with pytest.raises(InputError, match=r"document 'd' appears twice for query 'q'"):
        ranked(scored([("q", "d", 1.0), ("q", "e", 1.0), ("q", "d", 2.0)]))


def test_check_names_what_is_needed_and_what_was_found() -> None:
    with pytest.raises(InputError, match="queries: needs the columns qid, query; found qid, text"):
        check(pl.DataFrame({"qid": ["1"], "text": ["a"]}), QUERIES, "queries")
    with pytest.raises(InputError, match="queries: column qid must be String, found Int64"):
        check(pl.DataFrame({"qid": [1], "query": ["a"]}), QUERIES, "queries")
    with pytest.raises(InputError, match="queries: column query has 1 null"):
        check(pl.DataFrame({"qid": ["1"], "query": [None]}, schema=dict(QUERIES)), QUERIES, "queries")
