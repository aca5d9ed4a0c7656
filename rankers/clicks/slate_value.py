"""The value of a new ranking from the log of another: clicks a page, by importance weights of documents, not of pages.

A page of ten documents almost never matches another ranking whole, so its weight is taken apart under a click model:
Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen, "Offline evaluation of ranking policies with click models",
KDD 2018.
"""

from typing import Literal, TypeAlias, get_args

import numpy as np
import polars as pl

from rankers.clicks.labels import LABELS
from rankers.clicks.log import PROPENSITY, check_log
from rankers.clicks.offpolicy import Units
from rankers.clicks.propensity import filled_down
from retrieval.errors import InputError
from retrieval.frames import RUN, check

Assumption: TypeAlias = Literal["item_position", "position"]


def ranking_units(
    log: pl.DataFrame,
    run: pl.DataFrame,
    *,
    assume: Assumption,
    propensities: pl.DataFrame | None = None,
    relevance: pl.DataFrame | None = None,
    k: int = 10,
    clip: float = float("inf"),
) -> Units:
    """Units, one a page of LOG, of showing the first `k` of RUN instead: the reward is the clicks a page.

    assume:
    - "item_position": a click depends on the document and its position alone. w = 1[new position = shown position] /
      (share of the query's pages that show it there). No click model, but only what the log showed by chance can be
      valued; a document at a new position that the log never had it at counts 0 (see `support`). exposure 1 a slot.
    - "position": it depends on them through P(E | position) P(A | document). w = P(E | new position) / mean of
      P(E | shown position) over the pages that show it: any reordering of shown documents can be valued, by
      `propensities` (position, propensity; those deeper as the deepest). exposure: P(E | shown position).

    relevance: LABELS, P(click | examined) of each document, makes the estimates doubly robust; a document that it
    lacks is expected to have no click. Under "item_position" a look is taken at propensity 1 without `propensities`.
    clip: the largest weight. A query that the run does not answer is worth 0. Raises InputError as `check_log` does,
    for a "position" without propensities and for a k below 1.
    """
    if assume not in get_args(Assumption):
        raise InputError(f"unknown assumption {assume!r}; known: {', '.join(get_args(Assumption))}")
    if k < 1 or not clip > 0:
        raise InputError(f"k must be at least 1 and clip above 0; found {k} and {clip}")
    if assume == "position" and propensities is None:
        raise InputError('the assumption "position" needs propensities, by position')
    pages = check_log(log, "log")
    new = check(run, RUN, "run").filter(pl.col("rank") <= k).select("qid", "docid", "rank")
    deepest = max(int(pages.select(pl.col("position").max()).item()), k)
    looks = _looks(propensities, deepest)
    rows = _weighted(pages, new, looks, assume).with_columns(pl.col("w").clip(upper_bound=clip))
    known = _known(relevance, pl.concat([rows.select("qid", "docid"), new.select("qid", "docid")]))
    rows = rows.join(known, on=["qid", "docid"], how="left", maintain_order="left")
    exposure = pl.col("look") if assume == "position" else pl.lit(1.0)
    sums = rows.group_by("session", "qid", maintain_order=True).agg(
        reward=(pl.col("w") * pl.col("click")).sum(),
        control=(pl.col("w") * exposure).sum(),
        residual=(pl.col("w") * (pl.col("click") - pl.col("look") * pl.col("relevance"))).sum(),
    )
    aims = new.join(looks.select(rank="position", look="look"), on="rank").join(known, on=["qid", "docid"], how="left")
    # What the log cannot value counts 0 in the reward, so it may not count in what rewards are normalised to either.
    keys = _slot_keys(assume)
    valued = pages.select(pl.col(keys)).unique().with_columns(valued=pl.lit(1.0))
    aims = aims.with_columns(position=pl.col("rank")).join(valued, on=keys, how="left")
    per_query = aims.group_by("qid").agg(
        target=(exposure * pl.col("valued").fill_null(0.0)).sum(),
        baseline=(pl.col("look") * pl.col("relevance")).sum(),
    )
    units = sums.join(per_query, on="qid", how="left", maintain_order="left").fill_null(0.0)
    reward, control, target = (units[name].to_numpy() for name in ("reward", "control", "target"))
    if relevance is None:
        return Units(reward, control, target)
    return Units(reward, control, target, units["baseline"].to_numpy(), units["residual"].to_numpy())


def support(log: pl.DataFrame, run: pl.DataFrame, *, assume: Assumption, k: int = 10) -> float:
    """The share of the new ranking's slots, over the log's pages, that the log can value.

    "item_position": slots whose document the log showed there, for that query; "position": showed at all. Below 1 the
    estimates are too low: what cannot be valued counts 0.
    """
    slots = check(run, RUN, "run").filter(pl.col("rank") <= k)
    traffic = log.select("session", "qid").unique().group_by("qid").len()
    keys = _slot_keys(assume)
    shown = log.select(keys).unique().with_columns(shown=pl.lit(1.0))
    found = slots.rename({"rank": "position"}).join(shown, on=keys, how="left").join(traffic, on="qid", how="inner")
    if found.is_empty():
        return 0.0
    return float(np.average(found["shown"].fill_null(0.0).to_numpy(), weights=found["len"].to_numpy()))


def _slot_keys(assume: Assumption) -> list[str]:
    """What the log must have shown for a slot of the new ranking to be valued."""
    return ["qid", "docid", "position"] if assume == "item_position" else ["qid", "docid"]


def _looks(propensities: pl.DataFrame | None, deepest: int) -> pl.DataFrame:
    """position, look: Float64 for every position down to `deepest`; 1 without propensities."""
    if propensities is None:
        positions = pl.int_range(1, deepest + 1, dtype=pl.Int32, eager=True)
        return pl.DataFrame({"position": positions}).with_columns(look=pl.lit(1.0))
    filled = filled_down(propensities, deepest)
    return filled.select("position", look=pl.col(PROPENSITY).cast(pl.Float64))


def _weighted(pages: pl.DataFrame, new: pl.DataFrame, looks: pl.DataFrame, assume: Assumption) -> pl.DataFrame:
    """The log's rows with `look` at where they were shown and the weight `w` of their document in the new ranking."""
    rows = pages.select("session", "qid", "docid", "position", "click").join(looks, on="position", how="left")
    rows = rows.join(new, on=["qid", "docid"], how="left", maintain_order="left")
    if assume == "item_position":
        page_count = pages.select("session", "qid").unique().group_by("qid").agg(pages=pl.len())
        shown = rows.group_by("qid", "docid", "position").agg(shown=pl.len())
        rows = rows.join(page_count, on="qid").join(shown, on=["qid", "docid", "position"])
        here = (pl.col("rank") == pl.col("position")).fill_null(False)
        return rows.with_columns(w=pl.when(here).then(pl.col("pages") / pl.col("shown")).otherwise(0.0))
    page_count = pages.select("session", "qid").unique().group_by("qid").agg(pages=pl.len())
    exposed = rows.group_by("qid", "docid").agg(exposed=pl.col("look").sum())
    wanted = looks.select(rank="position", wanted="look")
    rows = rows.join(page_count, on="qid").join(exposed, on=["qid", "docid"]).join(wanted, on="rank", how="left")
    # Exposure is per page of the query, so a document that half of the pages leave out weighs twice on the others.
    return rows.with_columns(w=(pl.col("wanted") * pl.col("pages") / pl.col("exposed")).fill_null(0.0))


def _known(relevance: pl.DataFrame | None, pairs: pl.DataFrame) -> pl.DataFrame:
    distinct = pairs.unique()
    if relevance is None:
        return distinct.with_columns(relevance=pl.lit(0.0))
    labels = check(relevance, LABELS, "relevance").select("qid", "docid", pl.col("relevance").cast(pl.Float64))
    return distinct.join(labels, on=["qid", "docid"], how="left").with_columns(pl.col("relevance").fill_null(0.0))
