"""Retrieval metrics for a whole run at once, equal to trec_eval's where trec_eval has them.

Every metric is a ratio of two sums: what the ranking gained over the best that could be gained. The first is an
expression over the judged documents of a query's ranking, the second the same over its ideal ranking; both see the
columns `rank` (from 1), `relevance` (negative grades already 0) and `top_grade`.

Names are trec_eval's, with `_` before the cutoff (`precision_10` is its `P_10`). Conventions:

- A document ranks by score descending, ties by docid descending, scores compared as float32 (trec_eval).
- A query that the run does not answer counts 0. It never leaves a mean.
- A query with nothing relevant has no defined value: it is null in `per_query`, and `blank` says what it counts.
- "Relevant" means relevance of at least 1; the ideal ranking is over all judged documents, retrieved or not.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import polars as pl

from retrieval.errors import InputError
from retrieval.frames import QRELS, SCORED, check

log = logging.getLogger(__name__)

Blank: TypeAlias = Literal["zero", "one", "skip"]

RANK, RELEVANCE, TOP_GRADE = pl.col("rank"), pl.col("relevance"), pl.col("top_grade")
RELEVANT = RELEVANCE > 0
# 2^relevance stays finite in Float64, and its sums exact enough, far beyond any grade that is judged by people.
EXPONENTIAL_GRADE_LIMIT = 50


@dataclass(frozen=True)
class Metric:
    """`gained` over the ranking, divided by `best` over the ideal ranking; `k` is the deepest rank that it reads.

    `about_relevance` is False for a metric that is defined for a query with nothing relevant.
    """

    gained: pl.Expr
    best: pl.Expr | None = None
    k: int | None = None
    about_relevance: bool = True
    exponential: bool = False


def _within(k: int, value: pl.Expr) -> pl.Expr:
    return pl.when(RANK.le(k)).then(value).sum()


def _dcg(gain: pl.Expr, k: int) -> pl.Expr:
    return _within(k, gain / (RANK + 1).log(2))


def ndcg_cut(k: int) -> Metric:
    """NDCG, gain = relevance, discount log2(1 + rank). Järvelin & Kekäläinen 2002; trec_eval `ndcg_cut_K`."""
    return Metric(_dcg(RELEVANCE, k), _dcg(RELEVANCE, k), k)


def ndcg_exp_cut(k: int) -> Metric:
    """NDCG, gain = 2^relevance − 1, discount log2(1 + rank). Burges et al. 2005, as LightGBM and XGBoost have it."""
    gain = pl.lit(2.0).pow(RELEVANCE) - 1
    return Metric(_dcg(gain, k), _dcg(gain, k), k, exponential=True)


def err(k: int) -> Metric:
    """Expected reciprocal rank, Chapelle et al. 2009, section 4: stop at a document with R = (2^relevance − 1) / 2^top.

    `top` is the largest relevance in the qrels given (all queries), so figures compare only under the same qrels.
    """
    stop = (pl.lit(2.0).pow(RELEVANCE) - 1) / pl.lit(2.0).pow(TOP_GRADE)
    arrive = (1 - stop).cum_prod().shift(1, fill_value=1.0)
    return Metric(_within(k, arrive * stop / RANK), k=k, exponential=True)


def precision(k: int) -> Metric:
    """Relevant documents in the top K over K, however many were retrieved. trec_eval `P_K`."""
    return Metric(_within(k, RELEVANT) / k, k=k)


def recall(k: int) -> Metric:
    """Relevant documents in the top K over all relevant ones. trec_eval `recall_K`."""
    return Metric(_within(k, RELEVANT), RELEVANT.sum(), k)


def success(k: int) -> Metric:
    """1 when the top K holds a relevant document. trec_eval `success_K`."""
    return Metric((RELEVANT & RANK.le(k)).any(), k=k)


def judged(k: int) -> Metric:
    """Judged documents (of any grade) in the top K over K. ir_measures `Judged@K`; defined for every query."""
    return Metric(RANK.le(k).sum() / k, k=k, about_relevance=False)


def recip_rank() -> Metric:
    """1 / rank of the first relevant document, over the whole ranking. trec_eval `recip_rank`."""
    return Metric(1 / RANK.filter(RELEVANT).min())


def average_precision() -> Metric:
    """Mean over all relevant documents of the precision at each, unretrieved ones counting 0. trec_eval `map`."""
    return Metric((RELEVANT.cum_sum() / RANK).filter(RELEVANT).sum(), RELEVANT.sum())


WITH_CUTOFF: Mapping[str, Callable[[int], Metric]] = {
    "ndcg_cut": ndcg_cut,
    "ndcg_exp_cut": ndcg_exp_cut,
    "err": err,
    "precision": precision,
    "recall": recall,
    "success": success,
    "judged": judged,
}
WHOLE: Mapping[str, Callable[[], Metric]] = {"recip_rank": recip_rank, "map": average_precision}


def parse(name: str) -> Metric:
    """The metric called `name`, such as `ndcg_cut_10` or `map`. Raises InputError listing the known names."""
    if name in WHOLE:
        return WHOLE[name]()
    match = re.fullmatch(r"([a-z_]+)_([1-9][0-9]{0,8})", name)
    if match is None or match[1] not in WITH_CUTOFF:
        known = ", ".join([*(f"{base}_K" for base in WITH_CUTOFF), *WHOLE])
        raise InputError(f"unknown metric {name!r}; known (K is a cutoff of at least 1): {known}")
    return WITH_CUTOFF[match[1]](int(match[2]))


def per_query(run: pl.DataFrame, qrels: pl.DataFrame, metrics: Sequence[str]) -> pl.DataFrame:
    """Judge `run` (SCORED; ranks are made from the scores) by `qrels`: qid and one Float64 column a metric.

    One row for every query of `qrels`, in their order there; null where nothing is relevant (see `fill_blank`).
    Run queries without judgements are left out and counted in a warning.

    Raises InputError for an unknown metric, a NaN score, empty qrels, and a document that appears twice for a query
    (in the qrels, or in the part of the ranking that the metrics read).
    """
    if not metrics:
        raise InputError("no metric was asked for; name at least one, such as ndcg_cut_10")
    asked = {name: parse(name) for name in metrics}
    queries, judgements = _judgements(qrels, asked)
    cutoffs = [metric.k for metric in asked.values()]
    depth = None if None in cutoffs else max(k for k in cutoffs if k is not None)
    ranking = _ranking(run, queries, depth).join(judgements, on=["query", "docid"]).sort("query", "rank")
    ideal = (
        judgements.filter(RELEVANT)
        .sort("query", "relevance", descending=[False, True])
        .with_columns(rank=pl.int_range(1, pl.len() + 1).over("query"))
    )
    gained = ranking.group_by("query").agg(**{name: metric.gained for name, metric in asked.items()})
    best = ideal.group_by("query").agg(
        **{f"best {name}": pl.lit(1.0) if metric.best is None else metric.best for name, metric in asked.items()}
    )
    figures = queries.join(gained, on="query", how="left", maintain_order="left").join(
        best, on="query", how="left", maintain_order="left"
    )
    return figures.select("qid", **{name: _figure(name, metric) for name, metric in asked.items()})


def _figure(name: str, metric: Metric) -> pl.Expr:
    best = pl.col(f"best {name}") if metric.about_relevance else pl.lit(1.0)
    # A null `best` (nothing relevant) makes the ratio null; a query without a judged document retrieved gained 0.
    return pl.col(name).cast(pl.Float64).fill_null(0.0) / best


def _judgements(qrels: pl.DataFrame, asked: Mapping[str, Metric]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Number the judged queries; returns (qid, query) and (query, docid, relevance: Float64, top_grade)."""
    check(qrels, QRELS, "qrels")
    if qrels.is_empty():
        raise InputError("the qrels hold no judgement; at least one is needed to judge a run")
    queries = qrels.select(pl.col("qid").unique(maintain_order=True)).with_row_index("query")
    top = qrels.select(RELEVANCE.max().clip(lower_bound=0)).item()
    refused = [name for name, metric in asked.items() if metric.exponential]
    if refused and top > EXPONENTIAL_GRADE_LIMIT:
        raise InputError(f"{refused[0]} needs relevance of at most {EXPONENTIAL_GRADE_LIMIT}, found {top}")
    judgements = qrels.join(queries, on="qid").select(
        "query", "docid", RELEVANCE.clip(lower_bound=0).cast(pl.Float64), top_grade=pl.lit(float(top))
    )
    _refuse_twice(judgements, queries, "the qrels judge")
    return queries, judgements


def _ranking(run: pl.DataFrame, queries: pl.DataFrame, depth: int | None) -> pl.DataFrame:
    """Rank the documents of the judged queries to `depth`: query, docid, rank.

    A cutoff needs no full sort: the k-th largest score of a query bounds its top k, and only the rows that reach it
    (ties included) are sorted, some k rows of a thousand. Rows are numbered by blocks of one qid, so that the strings
    are compared once and never hashed row by row; where each query stands in one block, as runs are written, the
    blocks are the groups already, in order.
    """
    check(run, SCORED, "run")
    if run["score"].is_nan().any():
        row = run.filter(pl.col("score").is_nan()).row(0, named=True)
        raise InputError(f"the score of query {row['qid']!r}, document {row['docid']!r} is NaN; scores must be numbers")
    blocks = run.select(pl.col("qid").rle()).unnest("qid").rename({"value": "qid"})
    together = not blocks["qid"].is_duplicated().any()
    blocks = blocks.join(queries, on="qid", how="left", maintain_order="left")
    unjudged = blocks.filter(pl.col("query").is_null())["qid"].n_unique()
    if unjudged:
        log.warning("%d queries of the run have no judgements and are left out", unjudged)
    block = pl.Series(np.repeat(np.arange(blocks.height, dtype=np.uint32), blocks["len"].to_numpy()))
    rows = run.select("docid", "score", block=block.set_sorted())
    if depth is not None:
        group = rows["block"] if together else blocks["query"].gather(block)
        rows = rows.filter(pl.col("score") >= pl.col("score").top_k(depth).min().over(group))
    kept = rows.select("docid", "score", query=blocks["query"].gather(rows["block"])).drop_nulls("query")
    _refuse_twice(kept, queries, "the run ranks")
    kept = kept.sort("query", "score", "docid", descending=[False, True, True])
    return kept.select("query", "docid", rank=pl.int_range(1, pl.len() + 1).over("query"))


def _refuse_twice(pairs: pl.DataFrame, queries: pl.DataFrame, who: str) -> None:
    # One hash a pair decides at once when nothing repeats; only equal hashes are worth comparing in full.
    if pairs.select((pl.col("query").hash() ^ pl.col("docid").hash()).n_unique()).item() == pairs.height:
        return
    twice = pairs.filter(pairs.select("query", "docid").is_duplicated()).join(queries, on="query")
    if not twice.is_empty():
        row = twice.row(0, named=True)
        raise InputError(f"{who} document {row['docid']!r} twice for query {row['qid']!r}; once is right")


def fill_blank(figures: pl.DataFrame, blank: Blank) -> pl.DataFrame:
    """Give the queries with nothing relevant (null in `per_query`'s frame) the value that `blank` names.

    "zero" as trec_eval -c does, "one" as LightGBM and XGBoost do; "skip" leaves them null, out of every mean.
    """
    if blank not in get_args(Blank):
        raise InputError(f"unknown blank policy {blank!r}; known: {', '.join(get_args(Blank))}")
    return figures if blank == "skip" else figures.fill_null({"zero": 0.0, "one": 1.0}[blank])


def mean(figures: pl.DataFrame, blank: Blank = "zero") -> dict[str, float]:
    """The mean of each metric column of `per_query`'s frame, queries with nothing relevant counting as `blank`.

    Raises InputError when "skip" leaves no query.
    """
    means = fill_blank(figures, blank).drop("qid").mean().row(0, named=True)
    if None in means.values():
        raise InputError(f"no query has a relevant document, so blank={blank!r} leaves nothing to average")
    return means


def evaluate(run: pl.DataFrame, qrels: pl.DataFrame, metrics: Sequence[str], blank: Blank = "zero") -> dict[str, float]:
    """Judge `run` by `qrels`: the mean of each metric over all queries of `qrels`. See `per_query` and `fill_blank`."""
    return mean(per_query(run, qrels, metrics), blank)
