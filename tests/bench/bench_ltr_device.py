"""An epoch of each kind of network on this machine's GPU and CPU, side by side, on slates of MSLR-WEB30K's shape.

    python -m tests.bench.bench_ltr_device --queries 2000 [--epochs 3]

Prints one JSON object: seconds an epoch (validation included) and the ratio, a row a ranker. The CPU takes `--threads`.
"""

import argparse
import json
import time

import numpy as np
import torch

from rankers import networks
from rankers.slates import Slates
from rankers.training import _loss, fit, seeded

RANKERS = ("ranknet", "softmax", "lambda_loss", "neural_ndcg", "softmax+attention", "lambda_loss+attention")
ROWS, FEATURES = 120, 136


def slates(queries: int, seed: int) -> Slates:
    """Random slates of about ROWS rows, grades 0 to 4 that two features explain."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(ROWS // 2, ROWS * 3 // 2, queries)
    x = rng.normal(size=(int(sizes.sum()), FEATURES)).astype(np.float32)
    latent = x[:, 0] + x[:, 1] * (x[:, 2] > 0) + rng.normal(size=len(x))
    return Slates(x, np.clip(np.floor(latent), 0, 4).astype(np.int32), sizes)


def seconds_an_epoch(name: str, train: Slates, valid: Slates, device: str, epochs: int, threads: int) -> float:
    """The median over epochs after the first, which warms up."""
    attention = name.endswith("+attention")
    shape = {"network": "attention", "width": 64, "heads": 2, "blocks": 2} if attention else {"network": "mlp"}
    shape |= {"dropout": 0.1} if attention else {"dropout": 0.1, "hidden": [128, 64]}
    ends: list[float] = []
    with seeded(0, threads, torch.device(device)):
        network = networks.build(FEATURES, shape).to(device)
        loss = _loss(name.removesuffix("+attention"), {}, train, soft=False)
        shared = {"learning_rate": 1e-3, "weight_decay": 0.1, "batch_queries": 32, "patience": 99}
        fit(network, loss, train, valid, log=lambda m, s: ends.append(time.perf_counter()), epochs=epochs + 1, **shared)
    return float(np.median(np.diff(ends)))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--queries", type=int, default=2000)
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = arguments.parse_args()
    train, valid = slates(args.queries, 0), slates(max(args.queries // 10, 1), 1)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = []
    for name in RANKERS:
        found = {d: seconds_an_epoch(name, train, valid, d, args.epochs, args.threads) for d in devices}
        ratio = {"ratio": found["cpu"] / found["cuda"]} if "cuda" in found else {}
        rows.append({"ranker": name, **{f"{d}_s": round(s, 3) for d, s in found.items()}, **ratio})
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    shape = {"queries": args.queries, "rows": len(train.x), "features": FEATURES}
    print(json.dumps({"gpu": gpu, "cpu_threads": args.threads, **shape, "rankers": rows}))  # noqa: T201


if __name__ == "__main__":
    main()
