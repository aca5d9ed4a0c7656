"""How likely a position is to be examined, from what happens to a document that is shown at several.

Propensities are a frame `position: Int32, propensity: Float32`, relative to position 1: only their ratios can be known
from clicks, and only they matter to a ranking.
"""

import logging

import numpy as np
import polars as pl
from scipy.optimize import isotonic_regression

from rankers.clicks.log import PROPENSITY, check_counts
from rankers.protocol import Floats
from retrieval.errors import InputError
from retrieval.frames import Schema, check

logger = logging.getLogger(__name__)

PROPENSITIES: Schema = {"position": pl.Int32, "propensity": pl.Float32}
NORMAL_95 = 1.959964


def swap_propensities(counts: pl.DataFrame, *, monotone: bool = True) -> pl.DataFrame:
    """Propensities by intervention: documents that changed places with the top at random, seen at both positions.

    A document has the same attraction wherever it stands, so for those seen at 1 and at k the ratio of their click
    rates is the ratio of the examinations (Joachims, Swaminathan and Schnabel, WSDM 2017; pooled over
    all such documents, as Agarwal et al., WSDM 2019, harvest them). Documents are strata of unequal size, so the ratio
    is Mantel and Haenszel's, sum(a n1 / T) / sum(b nk / T), a of nk clicked at k, b of n1 at 1, T = n1 + nk, and its
    95 % interval Greenland and Robins' (Biometrics 1985). Which documents moved must have been chance, not relevance.

    monotone: attention falls down a page, so noise that says otherwise is pooled out (isotonic regression of the log
    ratios, weighted by their precision).

    Returns position, propensity, low, high (Float32; the interval is the ratio's own, before pooling). A position
    without a click on a document that was also seen at 1 has no estimate: it is left out, and a warning counts them.
    Raises InputError as `check_counts` does, and when no document was clicked both at 1 and elsewhere.
    """
    check_counts(counts, "counts")
    sums = counts.group_by("qid", "docid", "position").agg(pl.col("impressions", "clicks").sum())
    top = sums.filter(pl.col("position") == 1).select("qid", "docid", n1="impressions", b="clicks")
    both = sums.filter(pl.col("position") > 1).join(top, on=["qid", "docid"])
    if both.is_empty():
        raise InputError("no document was seen both at position 1 and at another: swap documents at random, or use "
                         "regression-EM")  # fmt: skip
    a, b, nk, n1 = pl.col("clicks"), pl.col("b"), pl.col("impressions"), pl.col("n1")
    total = n1 + nk
    ratios = both.group_by("position").agg(
        up=(a * n1 / total).sum(),
        down=(b * nk / total).sum(),
        spread=(((a + b) * n1 * nk - a * b * total) / (total * total)).sum(),
    ).sort("position")  # fmt: skip
    known = ratios.filter((pl.col("up") > 0) & (pl.col("down") > 0))
    if known.is_empty():
        raise InputError("swapped documents have too few clicks to estimate a propensity; collect a longer log")
    if missing := sums["position"].n_unique() - known.height - 1:
        logger.warning("%d positions have too few clicks on swapped documents to estimate their propensity", missing)
    up, down = known["up"].to_numpy(), known["down"].to_numpy()
    log_ratio, variance = np.log(up / down), known["spread"].to_numpy() / (up * down)
    width = NORMAL_95 * np.sqrt(np.maximum(variance, 0))
    low, high = np.exp(log_ratio - width), np.exp(log_ratio + width)
    pooled = _falling(log_ratio, variance) if monotone else log_ratio
    return _frame(
        np.append(1, known["position"].to_numpy()),
        np.append(1.0, np.exp(np.minimum(pooled, 0.0))),
        low=np.append(1.0, low),
        high=np.append(1.0, high),
    )


def with_propensities(counts: pl.DataFrame, propensities: pl.DataFrame | None = None) -> pl.DataFrame:
    """COUNTS with the propensity of each row's position: those given, or the log's own column when none are.

    Raises InputError for a propensity outside (0, 1], a position given twice or not at all, and a log without any.
    """
    check_counts(counts, "counts")
    if propensities is None:
        if PROPENSITY not in counts.columns:
            raise InputError("the log has no column propensity: estimate propensities first (swap or regression-EM)")
        return counts
    check(propensities, PROPENSITIES, "propensities")
    wrong = propensities.filter(~((pl.col(PROPENSITY) > 0) & (pl.col(PROPENSITY) <= 1)))
    if wrong.height:
        value, position = wrong[PROPENSITY].to_list()[0], wrong["position"].to_list()[0]
        raise InputError(f"propensities: {value} at position {position}; a propensity is above 0 and at most 1")
    if propensities["position"].is_duplicated().any():
        raise InputError("propensities: a position appears twice; each needs one propensity")
    plain = counts.drop(PROPENSITY, strict=False)
    joined = plain.join(propensities.select(*PROPENSITIES), on="position", how="left", maintain_order="left")
    if joined[PROPENSITY].null_count():
        position = min(joined.filter(pl.col(PROPENSITY).is_null())["position"].to_list())
        raise InputError(f"propensities: none for position {position}, which the log shows")
    return joined


def filled_down(propensities: pl.DataFrame, depth: int) -> pl.DataFrame:
    """Propensities for every position from 1 to `depth`: one that is missing has that of the nearest known above it.

    Deep positions have too few clicks for an estimate of their own; what they get is too high rather than too low,
    which under-corrects, as clipping does.
    """
    positions = pl.DataFrame({"position": pl.int_range(1, depth + 1, dtype=pl.Int32, eager=True)})
    known = check(propensities, PROPENSITIES, "propensities").select(*PROPENSITIES)
    filled = positions.join(known, on="position", how="left", maintain_order="left")
    return filled.with_columns(pl.col(PROPENSITY).forward_fill().backward_fill())


def _falling(log_ratio: Floats, variance: Floats) -> Floats:
    pooled: Floats = isotonic_regression(log_ratio, weights=1 / np.maximum(variance, 1e-12), increasing=False).x
    return pooled


def _frame(position: Floats, propensity: Floats, *, low: Floats, high: Floats) -> pl.DataFrame:
    return pl.DataFrame(
        {"position": position, "propensity": propensity, "low": low, "high": high},
        schema={**PROPENSITIES, "low": pl.Float32, "high": pl.Float32},
    )
