"""One training loop for all networks and all losses."""

import copy
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl
import torch
from torch import Tensor, nn

from rankers import listwise, losses, networks
from rankers.artifact import Setting
from rankers.catalogue import ATTENTION, NETWORKS, canonical
from rankers.checkpoint import Checkpoint
from rankers.losses import Loss
from rankers.neural import NetworkRanker, predict
from rankers.normaliser import Normalisation, Normaliser
from rankers.protocol import Log
from rankers.slates import Ndcg, Slates
from retrieval.errors import InputError

POOL = 8
"""Batches whose slates are sorted by length together: wide enough to save padding, narrow enough to stay random."""

_LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "ranknet": losses.ranknet,
    "lambdarank_net": partial(losses.ranknet, weighting="delta_ndcg"),
    "hinge": losses.hinge,
    "listnet": listwise.listnet,
    "listmle": listwise.listmle,
    "softmax": listwise.softmax,
    "approx_ndcg": listwise.approx_ndcg,
    "neural_ndcg": listwise.neural_ndcg,
    "lambda_loss": listwise.lambda_loss,
}


def fit_network(
    name: str,
    train: pl.DataFrame,
    valid: pl.DataFrame,
    *,
    feature_names: Sequence[str],
    log: Log,
    seed: int = 0,
    threads: int = 1,
    soft: bool = False,
    device: str = "auto",
    checkpoint: Path | None = None,
    loss_options: Mapping[str, Setting] | None = None,
    normalisation: Normalisation = "auto",
    hidden: Sequence[int] = (32, 16),
    width: int = 32,
    heads: int = 2,
    blocks: int = 1,
    dropout: float = 0.2,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.1,
    batch_queries: int = 16,
    epochs: int = 100,
    patience: int = 15,
) -> NetworkRanker:
    """Fit the network ranker called `name` (`rankers.catalogue.NETWORKS`, with or without `+attention`).

    train, valid: FEATURES with `relevance: Int32` (Float32 where `soft`); what is learned does not depend on the order
    of their rows, and is the same bit for bit for the same seed and threads on a CPU. One thread is the default: two
    halve the time on an idle two-core machine and take ten times as long on a busy one. device: `auto` takes a CUDA GPU
    where there is one. checkpoint: a file that each epoch's state is kept in, and taken up from where it is there.
    loss_options: keyword arguments of the loss (`losses_options`). hidden: of the MLP; width, heads, blocks: of the
    attention. Raises InputError as `Slates.of` does, and for an option that the loss has not.
    """
    name = canonical(name)
    slates = Slates.of(train, feature_names, "train", soft=soft)
    stopping = Slates.of(valid, feature_names, "valid", soft=soft)
    normaliser = Normaliser.fit(slates.x, normalisation)
    loss = _loss(name.removesuffix(ATTENTION), loss_options or {}, slates, soft)
    settings: dict[str, Setting] = {"network": "mlp", "hidden": list(hidden), "dropout": dropout}
    if name.endswith(ATTENTION):
        settings = {"network": "attention", "width": width, "heads": heads, "blocks": blocks, "dropout": dropout}
    training: dict[str, Setting] = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "batch_queries": batch_queries,
        "patience": patience,
        "normalisation": normalisation,
        "seed": seed,
        **(loss_options or {}),
    }
    where = _device(device)
    with seeded(seed, threads, where):
        network = networks.build(len(feature_names), settings).to(where)
        best = fit(
            network,
            loss.to(where) if isinstance(loss, nn.Module) else loss,
            _normalised(slates, normaliser),
            _normalised(stopping, normaliser),
            log=log,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_queries=batch_queries,
            epochs=epochs,
            patience=patience,
            checkpoint=Checkpoint(checkpoint, _key({**settings, **training, "loss": name}, slates, stopping))
            if checkpoint
            else None,
        )
    family = NETWORKS[name.removesuffix(ATTENTION)].family
    settings |= {**training, "epochs": best}
    return NetworkRanker(name, family, tuple(feature_names), settings, normaliser, network.cpu())


fit_ranknet = partial(fit_network, "ranknet")


def loss_options(name: str) -> list[str]:
    """The options that the loss of the network ranker `name` takes."""
    name = canonical(name).removesuffix(ATTENTION)
    if name == "ordinal":
        return []
    loss = _LOSSES[name]
    fixed = set(loss.keywords) if isinstance(loss, partial) else set()
    options = inspect.signature(loss).parameters.values()
    return [option.name for option in options if option.kind is option.KEYWORD_ONLY and option.name not in fixed]


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
    checkpoint: Checkpoint | None = None,
) -> int:
    """Train `network` in place with AdamW on normalised slates; returns the best epoch, whose weights it is left with.

    What is judged, and kept, is the running average of the weights: it ranks better than the last step's weights and
    its validation curve is smooth enough to stop on. Stops after `patience` epochs without a better validation NDCG@10.
    Logs train_loss and valid_ndcg_exp_cut_10 each epoch; taken up from a checkpoint, it logs the earlier ones again.
    """
    learned = [*network.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    optimiser = torch.optim.AdamW(learned, lr=learning_rate, weight_decay=weight_decay)
    average = copy.deepcopy(network).eval()
    pace = min(1.0, batch_queries / len(train.sizes))  # an epoch's steps weigh most, however many they are
    ndcg = Ndcg(valid)
    data = _on(train, learned[0].device)
    curve: list[dict[str, float]] = []
    best, best_epoch, best_state = -1.0, 0, networks.state_of(network)
    if checkpoint and (kept := checkpoint.read(network, average, loss, optimiser)):
        curve, best_epoch, best_state = kept.curve, kept.best_epoch, kept.best_state
        best = curve[best_epoch - 1]["valid_ndcg_exp_cut_10"]
        for epoch, metrics in enumerate(curve, 1):
            log(metrics, epoch)
    for epoch in range(len(curve) + 1, epochs + 1):
        if epoch - 1 - best_epoch >= patience:
            break
        network.train()
        total, steps = torch.zeros((), device=learned[0].device), 0
        for x, relevance, mask in shuffled(data, batch_queries):
            optimiser.zero_grad()
            value = loss(network(x, mask), relevance, mask)
            torch.autograd.backward(value)
            optimiser.step()
            _follow(average, network, pace)
            total, steps = total + value.detach(), steps + 1
        if not torch.isfinite(total):
            raise InputError(f"training diverged in epoch {epoch}: its loss is no number; try a lower learning_rate")
        now = ndcg(predict(average, valid.x, valid.sizes))
        curve.append({"train_loss": float(total) / steps, "valid_ndcg_exp_cut_10": now})
        log(curve[-1], epoch)
        if now > best:
            best, best_epoch, best_state = now, epoch, networks.state_of(average)
        if checkpoint:
            checkpoint.write(network, average, loss, optimiser, curve, best_epoch, best_state)
    network.load_state_dict(best_state)
    network.eval()
    return best_epoch


def shuffled(data: tuple[Tensor, Tensor, Tensor], batch_queries: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One epoch of padded batches x [B, L, F], relevance float [B, L], mask [B, L], in a fresh random order.

    Slates of like length share a batch, as far as a pool of a few batches drawn at random allows.
    """
    x, relevance, sizes = data
    starts = (sizes.cumsum(0) - sizes).to(x.device)
    pools = torch.split(torch.randperm(len(sizes)), POOL * batch_queries)
    by_length = [pool[sizes[pool].argsort(stable=True)] for pool in pools]
    cuts = [cut for pool in by_length for cut in torch.split(pool, batch_queries)]
    for place in torch.randperm(len(cuts)).tolist():
        queries = cuts[place]
        place_in = torch.arange(int(sizes[queries].max()), device=x.device)
        mask = place_in < sizes[queries].to(x.device)[:, None]
        row = torch.where(mask, starts[queries.to(x.device)][:, None] + place_in, 0)
        yield x[row] * mask[:, :, None], relevance[row] * mask, mask


@contextmanager
def seeded(seed: int, threads: int, device: torch.device | None = None) -> Iterator[None]:
    """Run torch from `seed` on `threads` threads, and leave its random state and threads as they were."""
    threads_before = torch.get_num_threads()
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)


def _loss(name: str, options: Mapping[str, Setting], train: Slates, soft: bool) -> Loss:
    known = loss_options(name)
    if unknown := [option for option in options if option not in known]:
        raise InputError(f"{name}: unknown loss option {unknown[0]!r}; known: {', '.join(known) or 'none'}")
    if name == "ordinal":
        return losses.Ordinal(int(train.relevance.max()) + 1)
    # Labels derived from clicks are no grades: 2^label would make of a few of them all that counts.
    gain = {"gain": "linear"} if soft and "gain" in known else {}
    return partial(_LOSSES[name], **{**gain, **options})


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: this machine shows no CUDA GPU; device 'auto' or 'cpu' runs without one")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}; known: auto, cpu, cuda, cuda:N") from error


def _on(slates: Slates, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, F] and relevance [n] on `device`, sizes [Q] on the CPU, where batches are cut."""
    relevance = torch.from_numpy(slates.relevance).float()
    return torch.from_numpy(slates.x).to(device), relevance.to(device), torch.from_numpy(slates.sizes)


def _key(settings: Mapping[str, Setting], train: Slates, valid: Slates) -> str:
    """What a checkpoint belongs to: the settings, the training rows, and those that its best epoch was found on."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for slates in (train, valid):
        for part in (slates.x, slates.relevance, slates.sizes):
            digest.update(part.tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, pace: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), pace)


def _normalised(slates: Slates, normaliser: Normaliser) -> Slates:
    return Slates(normaliser.transform(slates.x), slates.relevance, slates.sizes)
