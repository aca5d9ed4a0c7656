"""Where training stands after an epoch, in one safetensors file, so that a killed run goes on to the same weights."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from rankers.losses import Loss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """The metrics of every epoch so far, the best of them (from 1), and the weights that it had."""

    curve: list[dict[str, float]]
    best_epoch: int
    best_state: dict[str, Tensor]


class Checkpoint:
    """One file; `key` names what it belongs to (settings and data), and a file of another key is not taken up."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def write(
        self,
        network: nn.Module,
        average: nn.Module,
        loss: Loss,
        optimiser: torch.optim.Optimizer,
        curve: Sequence[Mapping[str, float]],
        best_epoch: int,
        best_state: Mapping[str, Tensor],
    ) -> None:
        """Replace the file by the state after the last epoch of `curve`, at once or not at all."""
        tensors = {f"best.{name}": tensor for name, tensor in best_state.items()}
        for name, tensor in _live(network, average, loss, optimiser):
            tensors[name] = tensor.detach().to("cpu", copy=True)
        tensors["random.cpu"] = torch.get_rng_state()
        device = next(network.parameters()).device
        if device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(device)
        said = {"key": self.key, "best_epoch": str(best_epoch), "curve": json.dumps(list(curve))}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}.new")
        safetensors.torch.save_file(tensors, fresh, metadata=said)
        os.replace(fresh, self.path)

    def read(
        self, network: nn.Module, average: nn.Module, loss: Loss, optimiser: torch.optim.Optimizer
    ) -> Standing | None:
        """Put everything back as it was after the last epoch; None, with a warning, for a file that does not fit."""
        if not self.path.exists():
            return None
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, OSError) as error:
            log.warning("%s: is no whole checkpoint (%s): training begins anew", self.path, error)
            return None
        if said.get("key") != self.key:
            log.warning("%s: is of other data or settings: training begins anew", self.path)
            return None
        _prepare(optimiser)
        with torch.no_grad():
            for name, tensor in _live(network, average, loss, optimiser):
                tensor.copy_(tensors[name])
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], next(network.parameters()).device)
        best = {name.removeprefix("best."): tensor for name, tensor in tensors.items() if name.startswith("best.")}
        return Standing(json.loads(said["curve"]), int(said["best_epoch"]), best)


def _live(
    network: nn.Module, average: nn.Module, loss: Loss, optimiser: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that training changes, by name."""
    modules = {"network": network, "average": average, **({"loss": loss} if isinstance(loss, nn.Module) else {})}
    for prefix, module in modules.items():
        yield from ((f"{prefix}.{name}", tensor) for name, tensor in module.state_dict(keep_vars=True).items())
    for number, parameter in enumerate(p for group in optimiser.param_groups for p in group["params"]):
        yield from ((f"optimiser.{number}.{name}", tensor) for name, tensor in optimiser.state[parameter].items())


def _prepare(optimiser: torch.optim.Optimizer) -> None:
    """Give a new AdamW the state that its first step would make, to be filled."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            optimiser.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
