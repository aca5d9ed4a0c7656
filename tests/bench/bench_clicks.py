"""What debiased training recovers of the NDCG that position bias costs, on MQ2008, and what fitting costs; prints JSON.

    python -m tests.bench.bench_clicks --seeds 10

See tests/pipeline/click_experiment.py for what is done. `fits` has the seconds that each click model takes on 1M
simulated impressions (100,000 pages of ten, of 1,000 queries, by a dynamic Bayesian user). Exit code 1 where the gap
exceeds two standard errors and inverse propensity scoring with the true propensities recovers less than .8 of it.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import numpy as np
import polars as pl

from pipeline.click_sources import MODELS, fit_model
from rankers.clicks.log import check_log
from rankers.clicks.simulate import simulate
from rankers.clicks.users import DynamicBayesianUser
from tests.pipeline.click_experiment import CLICKS, DEBIASED, RANKER, SETTINGS, SWAP, all_runs, share_of


def fit_seconds() -> dict[str, float]:
    """The seconds to check a log of 1M impressions and to fit each model to it."""
    rng = np.random.default_rng(0)
    world = pl.DataFrame(
        {
            "qid": np.repeat([f"q{number}" for number in range(1000)], 10),
            "docid": [f"d{number}" for number in range(10_000)],
            "position": pl.Series(np.tile(np.arange(1, 11), 1000), dtype=pl.Int32),
            "attraction": rng.uniform(0.05, 0.9, 10_000),
        }
    )
    log = simulate(world, DynamicBayesianUser(), sessions=100_000, seed=0, swap=0.3)
    steps: dict[str, Callable[[], object]] = {
        "check": lambda: check_log(log, "log"),
        **{name: partial(fit_model, name, log) for name in MODELS},
    }
    seconds = {}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        seconds[name] = round(time.perf_counter() - start, 2)
    return seconds


def main() -> int:
    """Run, summarise, print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    start = time.perf_counter()
    runs = all_runs(range(args.seeds), args.folds)
    shares = {name: asdict(share_of(runs, name)) for name in DEBIASED}
    report = {
        "data": "mq2008",
        "folds": args.folds,
        "seeds": args.seeds,
        "clicks": CLICKS,
        "swapped": SWAP,
        "ranker": RANKER,
        "settings": dict(SETTINGS),
        "metric": "ndcg_exp_cut_10, blank=skip",
        "ndcg": runs.drop("seed").mean().row(0, named=True),
        "shares": shares,
        "fits": fit_seconds(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    sys.stdout.write(json.dumps(report) + "\n")
    true = shares["ips, true"]
    return 1 if true["gap"] > 2 * true["gap_se"] and true["share"] < 0.8 else 0


if __name__ == "__main__":
    sys.exit(main())
