"""The click log: what was shown where, and what was clicked.

One row an impression. A *page* is what one session saw for one query; positions on it count from 1. A log that is used
only through (document, position, clicked?) is kept as counts, its sufficient statistics: a million clicks on eight
hundred queries are some ten thousand rows.
"""

import os
from pathlib import Path

import polars as pl

from retrieval.errors import InputError
from retrieval.frames import Schema, check

LOG: Schema = {
    "qid": pl.String,
    "docid": pl.String,
    "position": pl.Int32,
    "click": pl.Boolean,
    "session": pl.String,
}
"""What every log has. Optional: `dwell: Float32`, seconds on the clicked document, null where there was no click or no
measurement; `propensity: Float32`, in (0, 1], the probability that this position was examined."""

COUNTS: Schema = {
    "qid": pl.String,
    "docid": pl.String,
    "position": pl.Int32,
    "impressions": pl.Int64,
    "clicks": pl.Int64,
}
"""A log's sums; with a `propensity: Float32` column where the log has one."""

DWELL = "dwell"
PROPENSITY = "propensity"


def read_log(path: Path) -> pl.DataFrame:
    """Read a LOG from Parquet. Raises InputError as `read_whole` and `check_log` do."""
    return check_log(read_whole(path), str(path))


def write_log(log: pl.DataFrame, path: Path) -> None:
    """Write a LOG as Parquet, whole or not at all. Raises InputError as `check_log` does."""
    write_whole(check_log(log, "log to write"), path)


def read_whole(path: Path) -> pl.DataFrame:
    """Read one Parquet file. Raises InputError naming it when it is missing, a folder, or not Parquet."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; a Parquet file is needed")
    try:
        return pl.read_parquet(path, glob=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise InputError(f"{path}: is not a Parquet file that can be read: {reason}") from error


def write_whole(frame: pl.DataFrame, path: Path) -> None:
    """Write `frame` as Parquet, whole or not at all. Raises InputError where `path` cannot be written."""
    partial = path.with_name(path.name + ".partial")
    try:
        frame.write_parquet(partial)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_log(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return `frame` as a LOG: clicks that were 0 or 1 as Boolean, other widths of numbers narrowed, extras kept.

    Raises InputError naming `name` for an empty log, a column that is missing, of another kind or null, a click that is
    neither 0 nor 1, a position below 1, a propensity outside (0, 1], a dwell that is NaN or negative, and a position or
    a document that appears twice on a page.
    """
    missing = [column for column in LOG if column not in frame.columns]
    if missing:
        raise InputError(f"{name}: needs the columns {', '.join(LOG)}; found {', '.join(frame.columns) or 'none'}")
    if frame.is_empty():
        raise InputError(f"{name}: holds no impression; at least one is needed")
    log = check(_narrowed(frame, name), LOG, name)
    _refuse(log, pl.col("position") < 1, name, "position {position} of document {docid!r}; positions count from 1")
    if DWELL in log.columns:
        wrong = pl.col(DWELL).is_nan() | (pl.col(DWELL) < 0) | pl.col(DWELL).is_infinite()
        _refuse(log, wrong, name, "dwell {dwell} of document {docid!r}; seconds of at least 0, or null for none")
    if PROPENSITY in log.columns:
        inside = (pl.col(PROPENSITY) > 0) & (pl.col(PROPENSITY) <= 1)
        _refuse(
            log, ~inside.fill_null(False), name, "propensity {propensity} of document {docid!r}; above 0, at most 1"
        )
    for column in ("position", "docid"):
        keys = ["session", "qid", column]
        # One hash a row decides at once when nothing repeats; only equal hashes are worth comparing in full.
        if log.select(pl.struct(keys).hash().n_unique()).item() < log.height and (twice := _repeated(log, keys)).height:
            row = twice.row(0, named=True)
            raise InputError(
                f"{name}: {column} {row[column]!r} appears twice in session {row['session']!r} for query "
                f"{row['qid']!r}; a page shows a document once and fills a position once"
            )
    return log


def counts(log: pl.DataFrame, *, min_dwell: float | None = None) -> pl.DataFrame:
    """Sum a LOG into COUNTS, sorted by qid, docid and position (and propensity, where the log has one).

    min_dwell: only a click with a dwell of at least so many seconds counts as one: the "satisfied click" of Fox et al.,
    TOIS 2005. Raises InputError where the log has no dwell then.
    """
    clicked = pl.col("click")
    if min_dwell is not None:
        if DWELL not in log.columns:
            raise InputError("a shortest dwell needs a log with the column dwell; this one has none")
        clicked = clicked & (pl.col(DWELL) >= min_dwell).fill_null(False)
    keys = ["qid", "docid", "position", *([PROPENSITY] if PROPENSITY in log.columns else [])]
    sums = log.group_by(keys).agg(impressions=pl.len().cast(pl.Int64), clicks=clicked.sum().cast(pl.Int64))
    return sums.sort(keys)


def check_counts(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return `frame` when it is COUNTS with 0 <= clicks <= impressions and positions from 1; else raise InputError."""
    check(frame, COUNTS, name)
    if frame.is_empty():
        raise InputError(f"{name}: hold no impression; at least one is needed")
    _refuse(frame, pl.col("position") < 1, name, "position {position} of document {docid!r}; positions count from 1")
    _refuse(
        frame,
        (pl.col("clicks") < 0) | (pl.col("clicks") > pl.col("impressions")) | (pl.col("impressions") < 1),
        name,
        "{clicks} clicks on {impressions} impressions of document {docid!r}; from 0 to as many as the impressions",
    )
    return frame


def hold_out(log: pl.DataFrame, share: float, *, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split a LOG by session: (the rest, about `share` of the sessions, chosen by a seeded hash of their names).

    Raises InputError unless both parts hold a session.
    """
    if not 0 < share < 1:
        raise InputError(f"the share to hold out must lie between 0 and 1; found {share}")
    chance = pl.col("session").hash(seed).cast(pl.Float64) / 2.0**64
    rest, held = log.filter(chance >= share), log.filter(chance < share)
    if rest.is_empty() or held.is_empty():
        raise InputError(f"holding out {share} of {log['session'].n_unique()} sessions leaves one part empty")
    return rest, held


def _narrowed(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """`frame` with number columns in LOG's widths, where that loses nothing."""
    schema = frame.schema
    casts: list[pl.Expr] = []
    if schema["click"].is_integer():
        _refuse(frame, ~pl.col("click").is_in([0, 1]), name, "click {click} of document {docid!r}; 0, 1 or a Boolean")
        casts.append(pl.col("click").cast(pl.Boolean))
    if schema["position"].is_integer() and schema["position"] != pl.Int32:
        _refuse(frame, pl.col("position") > 2**31 - 1, name, "position {position} is no position of a page")
        casts.append(pl.col("position").clip(lower_bound=-1 if schema["position"].is_signed_integer() else 0)
                     .cast(pl.Int32))  # fmt: skip
    for column in (DWELL, PROPENSITY):
        if column in schema and schema[column] != pl.Float32:
            if not (schema[column].is_numeric() or schema[column] == pl.Null):
                raise InputError(f"{name}: column {column} must be Float32, found {schema[column]}")
            casts.append(pl.col(column).cast(pl.Float32))
    return frame.with_columns(casts)


def _refuse(frame: pl.DataFrame, wrong: pl.Expr, name: str, what: str) -> None:
    found = frame.filter(wrong).head(1)
    if found.height:
        row = found.row(0, named=True)
        raise InputError(f"{name}: " + what.format(**row) + f" (query {row['qid']!r})")


def _repeated(log: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    return log.filter(log.select(keys).is_duplicated())
