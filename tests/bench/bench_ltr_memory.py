"""`cascade ltr` from files to figures at the size of MSLR-WEB30K, in its own process: seconds and peak memory.

    python -m tests.bench.bench_ltr_memory [--ranker lambdamart] [--rounds 20]

Writes generated train, valid and test files (3 : 1 : 1 of 3,771,125 rows, 136 features) into a temporary folder, trains
on them, prints one JSON object, and deletes them. Labels are random: it shows what fits, not what is learned. Exits 1
above --limit-gib.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.bench_letor import GIB, MSLR_FEATURES, MSLR_ROWS, QUERY_ROWS, write


def main() -> int:
    """Write, train in a subprocess, report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=MSLR_ROWS)
    parser.add_argument("--ranker", default="lambdamart")
    parser.add_argument("--rounds", type=int, default=20, help="boosting rounds, or epochs of a network")
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder by default")
    parser.add_argument("--limit-gib", type=float, default=8.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        queries, options = 0, []
        for seed, (split, part) in enumerate((("train", 3), ("valid", 1), ("test", 1))):
            rows = args.rows * part // 5
            write(folder / f"{split}.txt", rows, MSLR_FEATURES, seed, queries)
            queries += -(-rows // QUERY_ROWS)
            options += [f"--{split}", str(folder / f"{split}.txt")]
        steps = "rounds" if args.ranker in ("regression", "logistic", "lambdamart", "xendcg") else "epochs"
        settings = {"ranker": args.ranker, "settings": {steps: args.rounds}}
        (folder / "settings.json").write_text(json.dumps(settings))
        options += ["--ranker", args.ranker, "--settings", str(folder / "settings.json"), "--seeds", "1"]
        command = [sys.executable, "-m", "pipeline.cli", "ltr", *options, "--home", str(folder / "home")]
        start = time.perf_counter()
        done = subprocess.run([*command, "--no-track", "--json"], check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GIB
        row = json.loads(done.stdout)["rankers"][0]
    report = {"ranker": args.ranker, "rows": args.rows, steps: args.rounds, "train_s": round(row["train_s"], 1),
              "predict_us_per_doc": round(row["predict_us_per_doc"], 2), "seconds": round(seconds, 1),
              "peak_gib": round(peak, 2)}  # fmt: skip
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if peak <= args.limit_gib else 1


if __name__ == "__main__":
    sys.exit(main())
