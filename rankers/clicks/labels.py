"""From clicks to what a ranker is trained on: soft relevance, with the bias of where things stood taken out, or not.

All labels are a frame `qid, docid, relevance: Float32`, one row a pair that the log shows, comparable within a query;
each is an estimate of the probability of a click on the document if it is examined, up to one factor for all.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from rankers.clicks.log import PROPENSITY, check_counts, check_log
from rankers.clicks.propensity import with_propensities
from retrieval.errors import InputError
from retrieval.frames import PAIRS, Schema, check

LABELS: Schema = {**PAIRS, "relevance": pl.Float32}
CLIP = 0.01


def click_rate(counts: pl.DataFrame) -> pl.DataFrame:
    """The naive label of COUNTS: clicks over impressions, wherever the document stood."""
    check_counts(counts, "counts")
    rate = pl.col("clicks").sum() / pl.col("impressions").sum()
    return _by_pair(counts, rate)


def inverse_propensity(
    counts: pl.DataFrame, propensities: pl.DataFrame | None = None, *, clip: float = CLIP
) -> pl.DataFrame:
    """Each click weighs one over the propensity of its position: unbiased where the propensities are right.

    Joachims, Swaminathan and Schnabel, WSDM 2017, per impression. clip: a propensity below it counts as it, which
    bounds a click's weight by 1 / clip, at the cost of under-correcting the positions that deep. propensities: see
    `with_propensities`, which says what is refused; also InputError for a clip outside (0, 1].
    """
    known = with_propensities(counts, propensities)
    weight = pl.col("clicks") / _clipped(clip)
    return _by_pair(known, weight.sum() / pl.col("impressions").sum())


def doubly_robust(
    counts: pl.DataFrame,
    estimates: pl.DataFrame,
    propensities: pl.DataFrame | None = None,
    *,
    clip: float = CLIP,
) -> pl.DataFrame:
    """An estimate of relevance, corrected by the clicks where there was exposure to correct it with.

    For a document with estimate m on the N pages of its query, click c and propensity p where it is shown, and its
    exposure r = sum(p) / N (Oosterhuis, "Doubly-robust estimation for correcting position bias in click feedback for
    unbiased learning to rank", TOIS 2023, per document):

        m + sum(c - p m) / (N max(r, clip))

    With right propensities it is right where the exposure is not clipped, whatever the estimate (the estimate then
    cancels), and where the estimate is, however little exposure there was; between, it is shrunk to the estimate
    and not to 0, as inverse propensity scoring is. A document of a query in the log that was never shown keeps m.

    estimates: qid, docid, relevance: Float32, as `fit_regression_em` or a click model's `relevance()` gives them, on
    the scale of clicks at propensity 1; every pair of the log needs one. A label below 0, which noise can bring, is
    0: a ranker's labels are not negative. What is refused: see `inverse_propensity`.
    """
    known = with_propensities(counts, propensities)
    given = check(estimates, LABELS, "estimates of relevance").select(*LABELS)
    if absent := known.join(given, on=["qid", "docid"], how="anti").select(*PAIRS).n_unique():
        raise InputError(f"estimates of relevance: {absent} documents of the log have none")
    n = pl.col("impressions")
    sums = known.group_by("qid", "docid").agg(
        clicks=pl.col("clicks").sum(), exposed=(pl.col(PROPENSITY).cast(pl.Float64) * n).sum()
    )
    # A page fills a position once, so the position that was filled most often tells how many pages there were.
    filled = known.group_by("qid", "position").agg(n.sum())
    pages = filled.group_by("qid").agg(pages=n.max())
    rows = given.join(pages, on="qid").join(sums, on=["qid", "docid"], how="left").fill_null(0)
    m, exposed = pl.col("relevance").cast(pl.Float64), pl.col("exposed")
    weight = pl.max_horizontal(exposed, pl.col("pages") * _share(clip))
    label = (m + (pl.col("clicks") - exposed * m) / weight).clip(lower_bound=0.0)
    return rows.select("qid", "docid", relevance=label.cast(pl.Float32)).sort("qid", "docid")


def graded(labels: pl.DataFrame, edges: Sequence[float]) -> pl.DataFrame:
    """Labels as QRELS: the grade is how many of the rising `edges` the label reaches (three edges: grades 0 to 3).

    Raises InputError for edges that do not rise and for a label that is NaN.
    """
    check(labels, LABELS, "labels")
    if not edges or (np.diff(edges) <= 0).any() or not np.isfinite(edges).all():
        raise InputError(
            f"the edges between grades must be numbers that rise, such as 0.1,0.3,0.6; found {list(edges)}"
        )
    values = labels["relevance"].to_numpy()
    if np.isnan(values).any():
        raise InputError("labels: a relevance is NaN; it must be a number")
    # Edges are compared in the labels' own precision: a label of 0.1 reaches the edge 0.1.
    grades = np.searchsorted(np.asarray(edges, dtype=np.float32), values, side="right")
    return labels.with_columns(relevance=pl.Series(grades, dtype=pl.Int32))


def labelled(features: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """FEATURES with these labels as `relevance: Float32`, to train on; judgements that `features` held are dropped.

    A pair that the log never showed has no label and is left out: nothing is known of it, which is not irrelevance.
    Raises InputError when none is left.
    """
    check(features, PAIRS, "features")
    check(labels, LABELS, "labels")
    plain = features.drop("relevance", strict=False)
    joined = plain.join(labels.select(*LABELS), on=["qid", "docid"], how="inner", maintain_order="left")
    if joined.is_empty():
        raise InputError("no document of the features has a label: they must share qid and docid with the log")
    return joined


def by_impression(log: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
    """A LOG as rows for LightGBM's unbiased lambdarank: a group a page, `relevance: Int32` the click, its `position`.

    `fit_lambdamart(…, position_column="position")` learns the positions' bias along with the ranking (LightGBM's
    `Dataset(position=…)`, after Hu et al., WWW 2019). qid is `session|qid`, since a page, not a query, is one list.
    Pages without a click teach no order and are left out. Raises InputError as `check_log` does, and when a document
    of the log has no features.
    """
    pages = check_log(log, "log").filter(pl.col("click").any().over("session", "qid"))
    if pages.is_empty():
        raise InputError("log: no page has a click; at least one is needed to learn from")
    known = features.drop("relevance", "position", strict=False)
    if absent := pages.join(known, on=["qid", "docid"], how="anti").select(*PAIRS).n_unique():
        raise InputError(f"features: {absent} documents of the log have none")
    rows = pages.select("session", *PAIRS, "position", relevance=pl.col("click").cast(pl.Int32))
    joined = rows.join(known, on=["qid", "docid"], how="left", maintain_order="left")
    return joined.with_columns(qid=pl.concat_str("session", "qid", separator="|")).drop("session")


def _by_pair(counts: pl.DataFrame, label: pl.Expr) -> pl.DataFrame:
    return counts.group_by("qid", "docid").agg(relevance=label.cast(pl.Float32)).sort("qid", "docid")


def _clipped(clip: float) -> pl.Expr:
    return pl.col(PROPENSITY).cast(pl.Float64).clip(lower_bound=_share(clip))


def _share(clip: float) -> float:
    if not 0 < clip <= 1:
        raise InputError(f"the clip of propensities must be above 0 and at most 1; found {clip}")
    return clip
