"""Reading LETOR files at the size of MSLR-WEB30K, in its own process, beside scikit-learn's reader on a slice.

    python -m tests.bench.bench_letor --rows 3771125 --features 136

Writes a file of that shape into a temporary folder (a block of rows, repeated under other query ids), reads it in a
subprocess, prints seconds, peak memory and what the frame holds as one JSON object, and deletes it. The peak is the
resident memory of the whole process, Python and Polars included. scikit-learn reads the first rows only, in the same
process after it: it is some twenty times slower.
"""

import argparse
import gzip
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import numpy as np

log = logging.getLogger(__name__)

MSLR_ROWS, MSLR_FEATURES = 3_771_125, 136
QUERY_ROWS = 120
"""MSLR-WEB30K: 3,771,125 rows of 31,531 queries."""
BLOCK_ROWS = 48_000
GIB = 2**30


def block(rows: int, features: int, seed: int) -> list[bytes]:
    """`rows` rows as MSLR writes them, each as (label, the rest after its query id): counts, ratios and many zeros."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([0.01, 1.0, 100.0, 10_000.0], features)
    values = np.where(rng.random((rows, features)) < 0.35, 0.0, rng.gamma(0.7, scale, (rows, features)))
    whole = rng.random(features) < 0.5
    values[:, whole] = np.ceil(values[:, whole])
    form = " ".join(f"{at + 1}:{'%d' if whole[at] else '%.6f'}" for at in range(features))
    return [(form % tuple(row)).encode() for row in values]


def write(path: Path, rows: int, features: int, seed: int, first_query: int = 0) -> int:
    """Write `rows` rows into `path` (gzip where it ends in .gz), queries from `first_query`; the bytes of the text."""
    tails = block(min(rows, BLOCK_ROWS), features, seed)
    labels = [
        b"%d" % label for label in np.random.default_rng(seed).choice(5, len(tails), p=[0.52, 0.32, 0.13, 0.02, 0.01])
    ]
    written = 0
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        for start in range(0, rows, len(tails)):
            written += _write_block(file, first_query * QUERY_ROWS + start, labels[: rows - start], tails)
    return written


def _write_block(file: "IO[bytes] | gzip.GzipFile", start: int, labels: list[bytes], tails: list[bytes]) -> int:
    lines = (
        b"%b qid:%d %b \n" % (label, (start + at) // QUERY_ROWS, tail)
        for at, (label, tail) in enumerate(zip(labels, tails, strict=False))
    )
    return file.write(b"".join(lines))


def read(path: Path) -> dict[str, float]:
    """Read `path` here and now: shape, seconds, the frame's size and this process's peak."""
    from retrieval.letor import read_letor

    before = _peak()
    start, cpu = time.perf_counter(), time.process_time()
    frame = read_letor([path])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    features = [column for column in frame.columns if column not in ("qid", "docid", "relevance")]
    return {
        "rows": frame.height,
        "features": len(features),
        "queries": frame["qid"].n_unique(),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "rows_per_s": round(frame.height / seconds),
        "frame_gib": round(frame.estimated_size() / GIB, 3),
        "before_gib": round(before, 3),
        "peak_gib": round(_peak(), 3),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def rival(path: Path, rows: int, folder: Path) -> dict[str, float]:
    """scikit-learn's load_svmlight_file on the first `rows` rows of `path`."""
    from sklearn.datasets import load_svmlight_file

    part = folder / "slice.txt"
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file, part.open("wb") as out:
        out.writelines(line for line, _ in zip(file, range(rows), strict=False))
    start, cpu = time.perf_counter(), time.process_time()
    found, _, _ = load_svmlight_file(str(part), query_id=True, dtype=np.float32)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "rows": found.shape[0],
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "rows_per_s": round(found.shape[0] / seconds),
    }


def main() -> int:
    """Write, read in a subprocess, let the rival read its slice, report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=MSLR_ROWS)
    parser.add_argument("--features", type=int, default=MSLR_FEATURES)
    parser.add_argument("--slice", type=int, default=50_000, help="rows that scikit-learn reads")
    parser.add_argument("--gzip", action="store_true", help="pack the file")
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder by default")
    parser.add_argument("--limit-gib", type=float, default=8.0, help="exit 1 when the peak is above this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.read:
        sys.stdout.write(json.dumps(read(args.read)) + "\n")
        return 0
    needed = args.rows * args.features * 13  # bytes a value, generous
    free = shutil.disk_usage(args.folder or tempfile.gettempdir()).free
    if free < needed + GIB:
        log.error("needs %.0f GiB of disk, %.0f GiB are free; take fewer --rows or another --folder",
                  needed / GIB + 1, free / GIB)  # fmt: skip
        return 2
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / ("mslr.txt.gz" if args.gzip else "mslr.txt")
        start = time.perf_counter()
        text_bytes = write(path, args.rows, args.features, args.seed)
        log.info("wrote %.2f GB of text in %.0f s", text_bytes / 1e9, time.perf_counter() - start)
        command = [sys.executable, "-m", "tests.bench.bench_letor", "--read", str(path)]
        ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        theirs = rival(path, min(args.slice, args.rows), Path(folder))
        report = {
            "text_bytes": text_bytes,
            "file_bytes": path.stat().st_size,
            "gzip": args.gzip,
            "cores": len(os.sched_getaffinity(0)),
            "load_average": round(os.getloadavg()[0], 2),
            "cascade": {**ours, "mb_per_s": round(text_bytes / 1e6 / ours["seconds"])},
            "sklearn": theirs,
            "times_as_fast": round(ours["rows_per_s"] / theirs["rows_per_s"], 1),
        }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if ours["peak_gib"] <= args.limit_gib else 1


if __name__ == "__main__":
    sys.exit(main())
