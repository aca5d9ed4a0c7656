"""What debiased training recovers of the NDCG that position bias costs, on MQ2008; prints JSON.

    python -m tests.bench.bench_clicks --seeds 10

See tests/pipeline/click_experiment.py for what is done. Exit code 1 where the gap exceeds two standard errors and
inverse propensity scoring with the true propensities recovers less than .8 of it.
"""

import argparse
import json
import logging
import sys
import time
from dataclasses import asdict

from tests.pipeline.click_experiment import CLICKS, DEBIASED, RANKER, SETTINGS, SWAP, all_runs, share_of


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
        "seconds": round(time.perf_counter() - start, 1),
    }
    sys.stdout.write(json.dumps(report) + "\n")
    true = shares["ips, true"]
    return 1 if true["gap"] > 2 * true["gap_se"] and true["share"] < 0.8 else 0


if __name__ == "__main__":
    sys.exit(main())
