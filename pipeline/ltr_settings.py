"""The settings that `cascade ltr` trains with where it is told none: by what is known of LETOR files.

Their features are numbers of unknown scale, which quantiles put on one; and how much may be learned goes with how many
rows there are to learn from. Chosen by cross-validation within the train and validation parts of MQ2008.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from rankers.artifact import Setting
from rankers.catalogue import ATTENTION, BLEND, RANKERS, canonical
from retrieval.errors import InputError
from retrieval.files import read_text_file
from retrieval.letor_rows import MAX_GRADE

SMALL_ROWS = 20_000
LARGE_ROWS = 1_000_000
BLENDED = ("lambdamart", "regression", "hinge", "listmle")
"""What a blend is made of by default: trees and networks, of each family one. A few that differ beat many alike."""

Settings = Mapping[str, Setting]


def defaults(name: str, rows: int) -> dict[str, Setting]:
    """The settings of the ranker `name` for a train split of `rows` rows, over those of its fit function."""
    name = canonical(name)
    match RANKERS[name].kind:
        case "trees":
            return _trees(name, rows)
        case "network":
            return {"normalisation": "quantile", **(_small_network(name) if rows < SMALL_ROWS else {})}
        case _:
            return {}


def _small_network(name: str) -> dict[str, Setting]:
    settings: dict[str, Setting] = {"batch_queries": 8}
    if name.endswith(ATTENTION):
        settings["width"] = 16
    elif name == "lambda_loss":
        settings |= {"hidden": [256], "weight_decay": 1.0}
    if name.removesuffix(ATTENTION) == "neural_ndcg":
        settings["sinkhorn"] = 10
    return settings


def _trees(name: str, rows: int) -> dict[str, Setting]:
    if rows >= LARGE_ROWS:
        return {"num_leaves": 63, "learning_rate": 0.1}
    if rows >= SMALL_ROWS:
        return {}
    small: dict[str, Setting] = {"num_leaves": 4, "learning_rate": 0.02}
    if name == "logistic":
        return small
    # So few leaves cannot work out for themselves how a document stands among its rivals.
    small["context"] = "zscore"
    if name != "lambdamart":
        return small
    # Where few queries have a top grade, exponential gains make of those few nearly all that is learned from.
    return {**small, "norm": False, "label_gain": list(range(MAX_GRADE + 1))}


def read_settings(path: Path) -> tuple[str, dict[str, Setting]]:
    """(ranker, settings) of a JSON file such as `cascade tune` writes: {"ranker": NAME, "settings": {…}}.

    Raises InputError for another shape and for a ranker that is not known; settings are checked where they are used.
    """
    try:
        said = json.loads(read_text_file(path))
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
    match said:
        case {"ranker": str(name), "settings": dict(settings)} if canonical(name) != BLEND:
            return canonical(name), settings
    raise InputError(f'{path}: needs {{"ranker": NAME, "settings": {{…}}}}, as `cascade tune --out` writes it')
