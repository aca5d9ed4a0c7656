"""The click log at its edge: what is read, what is refused, and what its sums are."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from rankers.clicks.log import check_log, counts, hold_out, read_log, write_log
from retrieval.errors import InputError
from tests.rankers.clicks.worlds import log_of

LOG = log_of(("q1", "ab", "10"), ("q1", "ba", "11"), ("q2", "cd", "00"))


def test_a_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    log = LOG.with_columns(
        dwell=pl.Series([1.5, None, 2.0, 0.0, None, None], dtype=pl.Float32),
        propensity=pl.Series([1.0, 0.5] * 3, dtype=pl.Float32),
        country=pl.lit("nl"),
    )
    write_log(log, tmp_path / "log.parquet")
    assert_frame_equal(read_log(tmp_path / "log.parquet"), log)
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


def test_clicks_of_0_and_1_and_wider_numbers_are_taken() -> None:
    wide = LOG.with_columns(
        pl.col("click").cast(pl.Int64),
        pl.col("position").cast(pl.UInt64),
        propensity=pl.lit(0.5, dtype=pl.Float64),
        dwell=pl.lit(None),
    )
    log = check_log(wide, "log")
    assert_frame_equal(log.select(LOG.columns), LOG)
    assert log.schema["propensity"] == log.schema["dwell"] == pl.Float32


def replaced(column: str, value: object, dtype: type[pl.DataType]) -> pl.DataFrame:
    first = pl.int_range(pl.len()) == 0
    old = pl.col(column) if column in LOG.columns else pl.lit(1)
    return LOG.with_columns(pl.when(first).then(pl.lit(value, dtype=dtype)).otherwise(old.cast(dtype)).alias(column))


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (LOG.drop("session"), "needs the columns qid, docid, position, click, session; found qid"),
        (LOG.clear(), "holds no impression"),
        (replaced("docid", None, pl.String), "column docid has 1 null values"),
        (replaced("click", None, pl.Boolean), "column click has 1 null values"),
        (replaced("click", 2, pl.Int64), "click 2 of document 'a'; 0, 1 or a Boolean"),
        (LOG.with_columns(pl.col("click").cast(pl.String)), "column click must be Boolean"),
        (LOG.with_columns(qid=pl.lit(7)), "column qid must be String"),
        (replaced("position", 0, pl.Int32), "position 0 of document 'a'; positions count from 1"),
        (replaced("position", -(2**40), pl.Int64), "positions count from 1"),
        (replaced("position", 2**31, pl.Int64), "position 2147483648 is no position"),
        (LOG.with_columns(pl.col("position").cast(pl.Float64)), "column position must be Int32"),
        (replaced("propensity", 0.0, pl.Float32), "propensity 0.0 of document 'a'; above 0, at most 1"),
        (replaced("propensity", 1.5, pl.Float64), "propensity 1.5 of document 'a'"),
        (replaced("propensity", float("nan"), pl.Float32), "propensity nan"),
        (replaced("propensity", None, pl.Float32), "propensity None"),
        (replaced("dwell", float("nan"), pl.Float32), "dwell nan of document 'a'; seconds"),
        (replaced("dwell", -1.0, pl.Float32), "dwell -1.0"),
        (replaced("dwell", float("inf"), pl.Float32), "dwell inf"),
        (LOG.with_columns(dwell=pl.lit("long")), "column dwell must be Float32"),
        (replaced("position", 2, pl.Int32), "position 2 appears twice in session 's0' for query 'q1'"),
        (replaced("docid", "b", pl.String), "docid 'b' appears twice in session 's0' for query 'q1'"),
    ],
)
def test_a_wrong_log_is_refused_in_one_line(log: pl.DataFrame, said: str) -> None:
    with pytest.raises(InputError) as refused:
        check_log(log, "log.parquet")
    assert str(refused.value).startswith("log.parquet: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("qid,docid\n")
    whole = tmp_path / "log.parquet"
    write_log(LOG, whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-20])
    for name, said in (
        ("", "is a folder"),
        ("text", "is not a Parquet file"),
        ("cut", "is not a Parquet file"),
        ("none", "no such file"),
    ):
        with pytest.raises(InputError, match=said) as refused:
            read_log(tmp_path / f"{name}.parquet" if name else tmp_path)
        assert "\n" not in str(refused.value)


def test_a_log_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_log(LOG, tmp_path / "missing" / "log.parquet")
    with pytest.raises(InputError, match="holds no impression"):
        write_log(LOG.clear(), tmp_path / "log.parquet")
    assert list(tmp_path.iterdir()) == []


def test_counts_sum_by_document_and_position() -> None:
    sums = counts(LOG)
    assert sums.rows() == [
        ("q1", "a", 1, 1, 1),
        ("q1", "a", 2, 1, 1),
        ("q1", "b", 1, 1, 1),
        ("q1", "b", 2, 1, 0),
        ("q2", "c", 1, 1, 0),
        ("q2", "d", 2, 1, 0),
    ]


def test_a_short_click_is_none_where_a_dwell_is_asked_for() -> None:
    log = LOG.with_columns(dwell=pl.Series([40.0, None, 5.0, None, None, None], dtype=pl.Float32))
    assert counts(log)["clicks"].sum() == 3
    assert counts(log, min_dwell=30.0)["clicks"].sum() == 1
    with pytest.raises(InputError, match="dwell"):
        counts(LOG, min_dwell=30.0)


def test_holding_out_splits_whole_sessions() -> None:
    log = log_of(*[("q1", "ab", "10")] * 400)
    rest, held = hold_out(log, 0.25, seed=3)
    assert rest.height + held.height == log.height
    assert not set(rest["session"]) & set(held["session"])
    assert 60 < held["session"].n_unique() < 140
    assert held["session"].unique().sort().equals(hold_out(log, 0.25, seed=3)[1]["session"].unique().sort())
    with pytest.raises(InputError, match="leaves one part empty"):
        hold_out(log_of(("q1", "ab", "10")), 0.5)
    with pytest.raises(InputError, match="between 0 and 1"):
        hold_out(log, 1.0)
