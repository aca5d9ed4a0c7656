"""Can a ranker be trained on biased clicks? The experiment that a test asserts and a benchmark reports.

On MQ2008 a logging ranker, trained on 1 % of the training queries, shows every query's documents in its order. A
position-based user with eta = 1 (Joachims et al., WSDM 2017) examines position r with probability 1 / r and clicks an
examined document with probability .1, .4 or 1 by its grade (Ai et al., SIGIR 2018). 1M clicks in expectation fall on
the training and validation queries together, kept as counts, which say all that such a log says. One ranker with one
setting is trained on several labels, early-stopped on validation labels of the same kind, and judged on the test
queries' judgements. What a debiased training recovers of the gap between naive clicks and judgements is

    share = (debiased - naive) / (true - naive)      of mean test NDCG@10, exponential gain

The ranker and its setting were picked by validation NDCG alone (seeds 100 and 101), of the catalogue's regression at
three settings, softmax, listnet, ranknet, lambda_loss and approx_ndcg: the best of those that train in under half a
second (lambda_loss, .003 above it, takes two). Regression-EM's defaults were picked by the likelihood of the clicks on
held-out training and validation queries of fold 1, without a judgement.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context

import numpy as np
import polars as pl
from scipy.stats import t as student

from pipeline.build import fit_ranker
from rankers.clicks.labels import click_rate, doubly_robust, inverse_propensity, labelled
from rankers.clicks.propensity import filled_down, swap_propensities
from rankers.clicks.regression import fit_regression_em
from rankers.clicks.simulate import shown_by, simulate_counts
from rankers.clicks.users import PositionBasedUser
from rankers.protocol import Ranker
from tests.bench import mq2008

CLICKS = 1_000_000
USER = PositionBasedUser(eta=1.0)
LOGGED_SHARE = 0.01
SWAP = 0.1
"""Of the sessions in the logs that hold interventions, which also have 1M clicks; the others have none."""
RANKER = "regression"
SETTINGS: Mapping[str, int | float] = {"rounds": 300, "patience": 60, "learning_rate": 0.03, "num_leaves": 7}
DEBIASED = ("ips, true", "ips, swap", "ips, regression-EM", "dr, swap")
"""Counterfactual label, and where its propensities come from."""


def fitted(
    train: pl.DataFrame, valid: pl.DataFrame, seed: int, ranker: str, settings: Mapping[str, int | float]
) -> Ranker:
    """`ranker` on soft labels."""
    options = {"soft": True, "settings": dict(settings), "log": lambda metrics, step: None}
    return fit_ranker(ranker, train, valid, seed=seed, **options)


def logging_ranking(train: pl.DataFrame, candidates: pl.DataFrame, seed: int) -> pl.DataFrame:
    """SHOWN of `candidates` by a ranker that saw 1 % of the training queries, of those with anything relevant."""
    rng = np.random.default_rng(seed)
    judged = train.filter((pl.col("relevance") > 0).any().over("qid"))["qid"].unique(maintain_order=True)
    few = rng.choice(judged.to_numpy(), round(LOGGED_SHARE * train["qid"].n_unique()), replace=False).tolist()
    seen = soft(train.filter(pl.col("qid").is_in(few)))
    ranker = fitted(seen, seen, seed, "softmax", {"epochs": 30})
    return shown_by(mq2008.scored(candidates, ranker.score(candidates)), candidates.select("qid", "docid", "relevance"))


def soft(frame: pl.DataFrame) -> pl.DataFrame:
    """Judgements as labels like any other."""
    return frame.with_columns(pl.col("relevance").cast(pl.Float32))


def labels_of(train: pl.DataFrame, valid: pl.DataFrame, seed: int) -> Iterator[tuple[str, pl.DataFrame]]:
    """The labels of the training and validation queries, by name: "judgements", "naive" and DEBIASED."""
    candidates = pl.concat([train, valid])
    yield "judgements", soft(candidates).select("qid", "docid", "relevance")
    shown = logging_ranking(train, candidates, seed)
    plain = simulate_counts(shown, USER, clicks=CLICKS, seed=seed)
    swapped = simulate_counts(shown, USER, clicks=CLICKS, seed=seed, swap=SWAP)
    depth = int(shown["position"].max())
    truth = pl.DataFrame({"position": np.arange(1, depth + 1), "propensity": USER.examination(depth)},
                         schema={"position": pl.Int32, "propensity": pl.Float32})  # fmt: skip
    by_swap = filled_down(swap_propensities(swapped), depth)
    names = mq2008.feature_names(train)
    by_em = fit_regression_em(plain, candidates, feature_names=names, seed=seed, log=lambda metrics, step: None)
    yield "naive", click_rate(plain)
    yield "ips, true", inverse_propensity(plain, truth)
    yield "ips, swap", inverse_propensity(swapped, by_swap)
    yield "ips, regression-EM", inverse_propensity(plain, filled_down(by_em.propensities, depth))
    yield "dr, swap", doubly_robust(swapped, by_em.relevance, by_swap)


def one_run(
    fold: int,
    seed: int,
    ranker: str = RANKER,
    settings: Mapping[str, int | float] = SETTINGS,
    on_valid: bool = False,
) -> dict[str, float]:
    """NDCG@10 on the test queries (or the validation queries) with something relevant, summed, by kind of label."""
    train, valid, test = _fold(fold)
    judged = valid if on_valid else test
    found = {}
    for name, labels in labels_of(train, valid, seed):
        model = fitted(labelled(train, labels), labelled(valid, labels), seed, ranker, settings)
        figures = mq2008.ndcg_per_query(judged, model.score(judged))[mq2008.METRIC].drop_nulls()
        found[name] = float(figures.sum())
    return {**found, "queries": float(len(figures))}


_fold = cache(mq2008.fold)


def all_runs(seeds: Sequence[int], folds: Sequence[int] = (1, 2, 3, 4, 5)) -> pl.DataFrame:
    """One row a seed: its mean NDCG@10 over the folds' test queries together, one column a kind of label."""
    jobs = list(product(seeds, folds))
    # Forking a process that has threads (polars, torch) can hang; a fresh one cannot.
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(one_run, [fold for _, fold in jobs], [seed for seed, _ in jobs]))
    table = pl.DataFrame(rows).with_columns(seed=pl.Series([seed for seed, _ in jobs]))
    sums = table.group_by("seed").sum().sort("seed")
    return sums.select("seed", pl.exclude("seed", "queries") / pl.col("queries"))


@dataclass(frozen=True)
class Share:
    """The share recovered, its 95 % interval, and the gap with its standard error; all over the seeds."""

    share: float
    low: float
    high: float
    gap: float
    gap_se: float


def share_of(runs: pl.DataFrame, name: str) -> Share:
    """The ratio of the mean differences; the interval is by the delta method with Student's t over the seeds."""
    gap = (runs["judgements"] - runs["naive"]).to_numpy()
    gained = (runs[name] - runs["naive"]).to_numpy()
    n, share = len(gap), gained.mean() / gap.mean()
    se = (gained - share * gap).std(ddof=1) / np.sqrt(n) / abs(gap.mean())
    half = student.ppf(0.975, n - 1) * se
    return Share(share, share - half, share + half, gap.mean(), gap.std(ddof=1) / np.sqrt(n))
