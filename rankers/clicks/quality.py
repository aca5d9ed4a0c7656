"""How well a click model predicts sessions that it has not seen, and a ranking judged by labels that clicks gave."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from rankers.clicks.log import check_log
from rankers.clicks.pages import Pages
from rankers.clicks.protocol import FLOOR, ClickModel
from rankers.protocol import Floats
from retrieval.errors import InputError
from retrieval.frames import PAIRS, check
from retrieval.metrics import Blank, evaluate

MILLIONTHS = 1e6
LARGEST_LABEL = 2_000.0
"""Millionths of it still fit the evaluator's 32-bit grades."""


@dataclass(frozen=True)
class Quality:
    """A model on held-out pages; the probabilities are kept within [1e-6, 1 - 1e-6].

    log_likelihood: the mean over pages of the log-probability of all of a page's clicks, each given those above it.
    by_position: the perplexity 2^H at each position, H the mean binary cross-entropy, in bits, of the clicks there
    when only what was shown is known: 1 is perfect, 2 a fair coin. perplexity: its mean over the positions.
    Chuklin, Markov and de Rijke 2015, chapter 5.
    """

    log_likelihood: float
    perplexity: float
    by_position: dict[int, float]
    pages: int
    unseen: float
    """The share of impressions whose (query, document) the model has not seen, and gives the mean parameters."""


def quality(model: ClickModel, held_out: pl.DataFrame) -> Quality:
    """Judge `model` on the LOG `held_out`. Raises InputError as `check_log` does."""
    pages = Pages.of(check_log(held_out, "held-out log"))
    surprise = -_log_probability(model.conditional(pages), pages)
    position = pages.position[pages.shown]
    bits = -_log_probability(model.marginal(pages), pages)[pages.shown] / np.log(2)
    shown = np.bincount(position)
    mean = np.bincount(position, bits) / np.maximum(shown, 1)
    by_position = {int(p): float(2 ** mean[p]) for p in np.flatnonzero(shown)}
    known = pages.pairs.join(model.parameters, on=["qid", "docid"], how="left", maintain_order="left")
    unseen = known["impressions"].is_null().to_numpy()[pages.pair][pages.shown].mean()
    return Quality(
        float(-surprise.sum(axis=0).mean()),
        float(np.mean(list(by_position.values()))),
        by_position,
        pages.click.shape[1],
        float(unseen),
    )


def ndcg_by_labels(run: pl.DataFrame, labels: pl.DataFrame, k: int = 10, blank: Blank = "zero") -> float:
    """Mean NDCG@k of `run` (SCORED) by click-derived `labels` (qid, docid, relevance: Float32), gain = the label.

    trec_eval's definition, by the one evaluator: linear-gain NDCG does not depend on the labels' scale, so they are
    handed over in whole millionths. Labels are not grades and their noise counts as gain: compare rankings by it, on
    one set of labels, and not with an NDCG from judgements. Raises InputError for a label outside [0, 2000].
    """
    return evaluate(run, as_millionths(labels), [f"ndcg_cut_{k}"], blank)[f"ndcg_cut_{k}"]


def as_millionths(labels: pl.DataFrame) -> pl.DataFrame:
    """Soft labels as QRELS in whole millionths. Raises InputError for a label outside [0, 2000]."""
    check(labels, {**PAIRS, "relevance": pl.Float32}, "labels")
    if not labels["relevance"].is_between(0, LARGEST_LABEL).all():
        raise InputError(f"labels: a relevance lies outside [0, {LARGEST_LABEL:g}] or is NaN")
    scaled = (pl.col("relevance").cast(pl.Float64) * MILLIONTHS).round().cast(pl.Int32)
    return labels.select("qid", "docid", relevance=scaled)


def _log_probability(p: Floats, pages: Pages) -> Floats:
    """The log-probability of what was done at each place, [L, S]; 0 where nothing was shown."""
    p = np.clip(p, FLOOR, 1 - FLOOR)
    done: Floats = np.where(pages.shown, np.where(pages.click, np.log(p), np.log1p(-p)), 0.0)
    return done
