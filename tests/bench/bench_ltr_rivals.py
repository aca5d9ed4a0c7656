"""The rivals over MQ2008's five folds: settings chosen per fold on validation alone, judged on test.

    python -m tests.bench.bench_ltr_rivals --seeds 3

Prints a JSON line a rival, fold and seed, and a summary a rival. A rival whose package is not installed is reported as
skipped.
"""

import argparse
import json
import logging
import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import polars as pl

from tests.bench import mq2008
from tests.bench.ltr_rivals import RIVALS, Floats, Rival, Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a rival made of a fold: the settings chosen, scores float32 [n] of the test rows, and the costs."""

    settings: Settings
    valid_ndcg: float
    scores: Floats
    train_seconds: float
    predict_us_per_doc: float


def chosen(rival: Rival, train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, *, seed: int) -> Result:
    """Fit every setting of the rival's grid; the one best on validation, the earlier where two are equal."""
    both = pl.concat([valid, test])
    best: Result | None = None
    for settings in rival.grid:
        scores, seconds, micros = rival.fit_score(train, valid, both, seed=seed, settings=settings)
        figure = mq2008.ndcg(valid, scores[: valid.height])
        if best is None or figure > best.valid_ndcg:
            best = Result(settings, figure, scores[valid.height :], seconds, micros)
    if best is None:
        raise ValueError(f"{rival.name}: the grid is empty")
    return best


def results(rival: Rival, fold: mq2008.Fold, seeds: Sequence[int]) -> Iterator[Result]:
    """A result a seed on one fold: the settings are chosen with the first seed, and kept for the others."""
    train, valid, test = fold
    first = chosen(rival, train, valid, test, seed=seeds[0])
    yield first
    both = pl.concat([valid, test])
    for seed in seeds[1:]:
        scores, seconds, micros = rival.fit_score(train, valid, both, seed=seed, settings=first.settings)
        figure = mq2008.ndcg(valid, scores[: valid.height])
        yield Result(first.settings, figure, scores[valid.height :], seconds, micros)


def report(rival: Rival, folds: Iterable[mq2008.Fold], seeds: Sequence[int]) -> Iterator[dict[str, object]]:
    """A row a fold and seed: figures on test and validation, costs, settings; or one row that says why not."""
    if not rival.installed:
        yield {"rival": rival.name, "skipped": f"{rival.package} is not installed (it is in the extra dev)"}
        return
    for number, fold in enumerate(folds, 1):
        for seed, result in zip(seeds, results(rival, fold, seeds), strict=True):
            yield {
                "rival": rival.name,
                "fold": number,
                "seed": seed,
                mq2008.METRIC: round(mq2008.ndcg(fold[2], result.scores), 5),
                "valid": round(result.valid_ndcg, 5),
                "train_s": round(result.train_seconds, 3),
                "predict_us_per_doc": round(result.predict_us_per_doc, 3),
                "settings": dict(result.settings),
            }


def main() -> int:
    """Run the rivals over the folds and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=list(RIVALS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=mq2008.PARTS, help="the first so many")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not mq2008.FOLDER.is_dir():
        log.error("needs %s", mq2008.FOLDER)
        return 2
    for name in args.rivals:
        rows = []
        for row in report(RIVALS[name], islice(mq2008.folds(), args.folds), range(args.seeds)):
            rows.append(row)
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
        if "skipped" in rows[0]:
            log.warning("%s: skipped, %s", name, rows[0]["skipped"])
            continue
        means = [statistics.fmean(float(str(row[column])) for row in rows)
                 for column in (mq2008.METRIC, "train_s", "predict_us_per_doc")]  # fmt: skip
        log.info("%s: %s %.4f over %d folds and %d seeds, %.2f s a fit, %.2f µs a document, load %.1f", name,
                 mq2008.METRIC, means[0], args.folds, args.seeds, *means[1:], os.getloadavg()[0])  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
