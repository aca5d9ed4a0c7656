"""What `cascade tune` searches: for each kind of ranker the settings that matter, their ranges and their defaults.

The defaults are those of `rankers.trees.fit_trees` and `rankers.training.fit_network` (a test holds them together). A
search starts from those of `cascade ltr` for as many rows (`started_from`): its first trial is the ranker as it is.
Rounds and epochs are in no space: early stopping finds them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias, cast

from pipeline import build
from pipeline.durable import fingerprint
from rankers.artifact import Setting
from rankers.catalogue import ATTENTION, RANKERS, canonical
from retrieval.errors import InputError


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`, drawn evenly on a log scale unless `log` is False."""

    low: float
    high: float
    default: float
    log: bool = True


@dataclass(frozen=True)
class Whole:
    """An integer from `low` to `high`, both possible, drawn evenly on a log scale unless `log` is False."""

    low: int
    high: int
    default: int
    log: bool = True


@dataclass(frozen=True)
class OneOf:
    """One of a few values that have no order, or none that a model should rely on."""

    options: tuple[Setting, ...]
    default: Setting


Range: TypeAlias = Real | Whole | OneOf
Space: TypeAlias = Mapping[str, Range]

TREES: Space = {
    "learning_rate": Real(0.01, 0.2, default=0.05),
    "num_leaves": Whole(4, 63, default=15),
    "min_data_in_leaf": Whole(10, 400, default=100),
    "feature_fraction": Real(0.2, 1.0, default=0.5, log=False),
    "bagging_fraction": Real(0.4, 1.0, default=0.7, log=False),
    "lambda_l2": Real(0.01, 100.0, default=10.0),
    "context": OneOf(("none", "zscore", "rank"), default="none"),
}
NETWORKS: Space = {
    "learning_rate": Real(3e-4, 2e-2, default=2e-3),
    "weight_decay": Real(1e-3, 1.0, default=0.1),
    "dropout": Real(0.0, 0.5, default=0.2, log=False),
    "batch_queries": OneOf((8, 16, 32, 64), default=16),
    "normalisation": OneOf(("auto", "zscore", "log", "quantile"), default="auto"),
}
MLP: Space = {"hidden": OneOf(([16], [32, 16], [64, 32], [128, 64], [256]), default=[32, 16])}
SELF_ATTENTION: Space = {
    "width": OneOf((16, 32, 64), default=32),
    "heads": OneOf((1, 2, 4), default=2),
    "blocks": Whole(1, 3, default=1, log=False),
}
_GAIN = OneOf(("exponential", "linear"), default="exponential")
_WEIGHTING = OneOf(("none", "delta_ndcg"), default="none")
LOSSES: Mapping[str, Space] = {
    "lambdamart": {
        "truncation_level": Whole(5, 100, default=30),
        "norm": OneOf((True, False), default=True),
    },
    "ranknet": {"weighting": _WEIGHTING, "sigma": Real(0.25, 4.0, default=1.0)},
    "lambdarank_net": {"gain": _GAIN, "sigma": Real(0.25, 4.0, default=1.0)},
    "hinge": {"weighting": _WEIGHTING, "margin": Real(0.1, 4.0, default=1.0)},
    "listmle": {"position_aware": OneOf((False, True), default=False)},
    "approx_ndcg": {"temperature": Real(0.05, 4.0, default=1.0), "gain": _GAIN},
    "neural_ndcg": {"temperature": Real(0.05, 4.0, default=1.0), "gain": _GAIN},
    "lambda_loss": {"mu": Real(1.0, 30.0, default=10.0), "sigma": Real(0.25, 4.0, default=1.0), "gain": _GAIN},
}
"""What a loss adds to the space of its kind; the losses that are not here have nothing to set."""


def space_of(name: str) -> Space:
    """The search space of the ranker called `name`.

    Raises InputError for an unknown name, for a blend, and where a setting here is none of the ranker's.
    """
    name = canonical(name)
    match RANKERS[name].kind:
        case "trees":
            shared = TREES
        case "network":
            shared = {**NETWORKS, **(SELF_ATTENTION if name.endswith(ATTENTION) else MLP)}
        case "blend":
            raise InputError("a blend has nothing to search: its weights are fitted; tune its members")
    space = {**shared, **LOSSES.get(name.removesuffix(ATTENTION), {})}
    if unknown := sorted(set(space) - set(build.ranker_settings(name))):
        raise InputError(f"the search space of {name} has {unknown[0]!r}, which is no setting of it")
    return space


def started_from(space: Space, settings: Mapping[str, Setting]) -> tuple[Space, dict[str, Setting]]:
    """(`space` with the values of `settings` as its defaults, the rest of `settings`, which every trial keeps)."""
    moved = {
        name: replace(values, default=cast(Any, settings[name])) if name in settings else values
        for name, values in space.items()
    }
    return moved, {name: value for name, value in settings.items() if name not in space}


def defaults(space: Space) -> dict[str, Setting]:
    """Every setting of `space` as it is without a search."""
    return {name: values.default for name, values in space.items()}


def space_fingerprint(space: Space) -> str:
    """Changes with any range, option or default."""
    return fingerprint({name: {type(values).__name__: asdict(values)} for name, values in space.items()}, "space")
