"""One training loop for all networks and all losses."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import polars as pl
import torch
from torch import Tensor, nn

from rankers import losses, networks
from rankers.artifact import Setting
from rankers.losses import Loss
from rankers.neural import NetworkRanker, predict
from rankers.normaliser import Normaliser
from rankers.protocol import Log
from rankers.slates import Ndcg, Slates


def fit_ranknet(
    train: pl.DataFrame,
    valid: pl.DataFrame,
    *,
    feature_names: Sequence[str],
    log: Log,
    seed: int = 0,
    threads: int = 1,
    hidden: Sequence[int] = (32, 16),
    dropout: float = 0.2,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.1,
    batch_queries: int = 16,
    epochs: int = 100,
    patience: int = 15,
) -> NetworkRanker:
    """Fit RankNet (Burges et al., ICML 2005): the pairwise logistic loss over all pairs of a slate.

    train, valid: FEATURES with `relevance: Int32`; what is learned does not depend on the order of their rows, and is
    the same bit for bit for the same seed and threads on a CPU. One thread is the default: two halve the time on an
    idle two-core machine and take ten times as long on a busy one. Raises InputError as `Slates.of` does.
    """
    slates = Slates.of(train, feature_names, "train")
    stopping = Slates.of(valid, feature_names, "valid")
    normaliser = Normaliser.fit(slates.x)
    settings: dict[str, Setting] = {"network": "mlp", "hidden": list(hidden), "dropout": dropout}
    with seeded(seed, threads):
        network = networks.build(len(feature_names), settings)
        best = fit(
            network,
            losses.ranknet,
            _normalised(slates, normaliser),
            _normalised(stopping, normaliser),
            log=log,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_queries=batch_queries,
            epochs=epochs,
            patience=patience,
        )
    settings |= {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "batch_queries": batch_queries,
        "epochs": best,
        "seed": seed,
    }
    return NetworkRanker("ranknet", "pairwise", tuple(feature_names), settings, normaliser, network)


def fit(
    network: nn.Module,
    loss: Loss,
    train: Slates,
    valid: Slates,
    *,
    log: Log,
    learning_rate: float,
    weight_decay: float,
    batch_queries: int,
    epochs: int,
    patience: int,
) -> int:
    """Train `network` in place with AdamW on normalised slates; returns the best epoch, whose weights it is left with.

    What is judged, and kept, is the running average of the weights: it ranks better than the last step's weights and
    its validation curve is smooth enough to stop on. Stops after `patience` epochs without a better validation NDCG@10.
    Logs train_loss and valid_ndcg_cut_10 each epoch.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    average = copy.deepcopy(network).eval()
    pace = min(1.0, batch_queries / len(train.sizes))  # an epoch's steps weigh most, however many they are
    ndcg = Ndcg(valid)
    best, best_epoch, best_state = -1.0, 0, networks.state_of(network)
    for epoch in range(1, epochs + 1):
        network.train()
        total, steps = 0.0, 0
        for x, relevance, mask in shuffled(train, batch_queries):
            optimiser.zero_grad()
            value = loss(network(x, mask), relevance, mask)
            torch.autograd.backward(value)
            optimiser.step()
            _follow(average, network, pace)
            total, steps = total + value.item(), steps + 1
        now = ndcg(predict(average, valid.x, valid.sizes))
        log({"train_loss": total / steps, "valid_ndcg_cut_10": now}, epoch)
        if now > best:
            best, best_epoch, best_state = now, epoch, networks.state_of(average)
        elif epoch - best_epoch >= patience:
            break
    network.load_state_dict(best_state)
    network.eval()
    return best_epoch


def shuffled(slates: Slates, batch_queries: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One epoch of padded batches x [B, L, F], relevance float [B, L], mask [B, L], in a fresh random order."""
    x, relevance = torch.from_numpy(slates.x), torch.from_numpy(slates.relevance).float()
    sizes = torch.from_numpy(slates.sizes)
    starts = sizes.cumsum(0) - sizes
    for queries in torch.split(torch.randperm(len(sizes)), batch_queries):
        place = torch.arange(int(sizes[queries].max()))
        mask = place < sizes[queries][:, None]
        row = torch.where(mask, starts[queries][:, None] + place, 0)
        yield x[row] * mask[:, :, None], relevance[row] * mask, mask


@contextmanager
def seeded(seed: int, threads: int) -> Iterator[None]:
    """Run torch from `seed` on `threads` threads, and leave its random state and threads as they were."""
    threads_before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, pace: float) -> None:
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, pace)


def _normalised(slates: Slates, normaliser: Normaliser) -> Slates:
    return Slates(normaliser.transform(slates.x), slates.relevance, slates.sizes)
