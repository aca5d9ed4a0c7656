"""A search as Optuna keeps it: studies in SQLite, and their trials as Cascade speaks of them.

    home/tuning/studies.db        every study, in Optuna's own tables
    home/tuning/.locks/<study>    held by the one process that searches it

Only one process works on a study, so a trial that still "runs" when its lock is free has no owner. This is the one
module that imports optuna.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline.cross_validation import FoldScore
from pipeline.durable import JSON, locked, make_folder, writing
from pipeline.search_space import OneOf, Real, Space, Whole, defaults
from rankers.artifact import Setting
from retrieval.errors import CascadeError, InputError

FOLDER, DATABASE = "tuning", "studies.db"
STARTUP_TRIALS = 10
"""Trials drawn at random before TPE has enough to learn from."""
SPARED_TRIALS = 5
"""Trials that must be complete before any is pruned."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_IDENTITY, _FOLDS, _ERROR, _SECONDS = "identity", "folds", "error", "seconds"


@dataclass(frozen=True)
class Ended:
    """A trial that ended. state: complete, pruned or failed; number: among those that ended, from 0.

    value: the metric over the queries of all its folds (None unless complete); folds: the means of those that ran.
    """

    number: int
    state: str
    settings: Mapping[str, Setting]
    folds: tuple[float, ...]
    value: float | None
    seconds: float
    error: str | None = None


class Study:
    """One search's trials, this process being the only one that adds to them. `open_study` makes it."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)  # of a search that was killed

    def ended(self) -> tuple[Ended, ...]:
        """The trials that ended, in that order: a killed one is none of them, its successor stands in its place."""
        return tuple(_as_ended(number, trial) for number, trial in enumerate(filter(_has_ended, self._study.trials)))

    def ask(self, space: Space, seed: int) -> "Asked":
        """The next settings to try: the defaults first, then what TPE draws from `seed` and the trials that ended."""
        ended = self.ended()
        if not ended and not self._study.get_trials(states=(TrialState.WAITING,)):
            self._study.enqueue_trial(_encoded(space, defaults(space)))
        seed_here = int.from_bytes(blake2b(f"{seed}\0{len(ended)}".encode(), digest_size=4).digest(), "big")
        self._study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed_here)
        trial = self._study.ask()
        settings = _suggested(trial, space)
        dead = [other for other in self._study.get_trials(states=(TrialState.FAIL,)) if not _has_ended(other)]
        known = max((_scores(other) for other in dead if other.params == trial.params), key=len, default=[])
        return Asked(self._study, trial, settings, known, first=not ended)

    def reference(self) -> list[FoldScore]:
        """The folds of the first trial, the ranker as it is; none before it has ended."""
        return next((_scores(trial) for trial in self._study.trials if _has_ended(trial)), [])

    def importance(self, space: Space, seed: int) -> dict[str, float]:
        """Each setting's share of the value's variance, the largest first; none where no two trials differ."""
        values = {trial.value for trial in self._study.get_trials(states=(TrialState.COMPLETE,))}
        if len(values) < 2:
            return {}
        evaluator = FanovaImportanceEvaluator(seed=seed)
        found = get_param_importances(self._study, evaluator=evaluator, params=list(space))
        return {name: float(share) for name, share in found.items()}


@dataclass(frozen=True)
class Asked:
    """A trial that is to be run. known: the folds that a killed trial of the same settings had scored."""

    study: optuna.Study
    trial: Trial
    settings: Mapping[str, Setting]
    known: list[FoldScore]
    first: bool

    def report(self, scores: list[FoldScore], value: float) -> None:
        """Keep the folds scored so far, and report `value` to the pruner."""
        self.trial.set_user_attr(_FOLDS, [asdict(score) for score in scores])
        self.trial.report(value, len(scores) - 1)

    def should_prune(self) -> bool:
        return bool(self.trial.should_prune())

    def complete(self, value: float, seconds: float) -> None:
        self.trial.set_user_attr(_SECONDS, seconds)
        self.study.tell(self.trial, value)

    def prune(self, seconds: float) -> None:
        self.trial.set_user_attr(_SECONDS, seconds)
        self.study.tell(self.trial, state=TrialState.PRUNED)

    def fail(self, error: str) -> None:
        """The settings cannot be trained with."""
        self.trial.set_user_attr(_ERROR, error)
        self.study.tell(self.trial, state=TrialState.FAIL)

    def put_off(self) -> None:
        """Leave the trial to a later search, which takes it up with the folds that it has."""
        self.study.tell(self.trial, state=TrialState.FAIL)


def _suggested(trial: Trial, space: Space) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for name, values in space.items():
        match values:
            case Real(low, high, _, log_scale):
                settings[name] = trial.suggest_float(name, low, high, log=log_scale)
            case Whole(low, high, _, log_scale):
                settings[name] = trial.suggest_int(name, low, high, log=log_scale)
            case OneOf(options):
                # As JSON text: Optuna stores no lists.
                settings[name] = json.loads(trial.suggest_categorical(name, [json.dumps(option) for option in options]))
    return settings


def _encoded(space: Space, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Settings as Optuna's parameters."""
    return {name: json.dumps(value) if isinstance(space[name], OneOf) else value for name, value in settings.items()}


def _decoded(trial: FrozenTrial) -> dict[str, Setting]:
    return {name: json.loads(value) if isinstance(value, str) else value for name, value in trial.params.items()}


def _as_ended(number: int, trial: FrozenTrial) -> Ended:
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return Ended(
        number=number,
        state=states[trial.state],
        settings=_decoded(trial),
        folds=tuple(score.mean for score in _scores(trial)),
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        seconds=float(trial.user_attrs.get(_SECONDS, 0.0)),
        error=trial.user_attrs.get(_ERROR),
    )


def _has_ended(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or _ERROR in trial.user_attrs


def _scores(trial: FrozenTrial) -> list[FoldScore]:
    return [FoldScore(**score) for score in trial.user_attrs.get(_FOLDS, [])]


def check_name(name: str) -> str:
    """Return `name` when a study may be called so; InputError otherwise."""
    if not _NAME.fullmatch(name):
        raise InputError(f"study {name!r}: a name is up to 100 letters, digits and . _ + -, first a letter or digit")
    return name


@contextmanager
def open_study(home: Path, name: str, identity: Mapping[str, JSON]) -> Iterator[Study]:
    """The study called `name`, made where it is missing, for this process alone.

    identity: what decides its trials. Raises InputError for a study that was begun with another, or that another
    process is searching, and CascadeError for a database that cannot be used.
    """
    if odd := re.search(r"[?%#]", str(home)):
        raise InputError(f"{home}: Optuna cannot use a path with {odd[0]!r}; name another folder")
    folder = make_folder(home / FOLDER)
    locks = make_folder(folder / ".locks")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with locked(locks / name, wait=False) as mine:
        if not mine:
            raise InputError(f"study {name}: another process is searching it; wait for it, or give another --name")
        try:
            with writing("the study", folder):
                with locked(locks / ".database"):
                    study = _opened(folder / DATABASE, name)
                    _claim(study, identity)
                yield Study(study)
        except (SQLAlchemyError, StorageInternalError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            message = f"{folder / DATABASE}: Optuna failed ({reason}); if it is damaged, move it away to begin anew"
            raise CascadeError(message) from error


def _opened(database: Path, name: str) -> optuna.Study:
    # Two processes, each with a study of its own, may wait for each other's writes.
    engine = {"connect_args": {"timeout": 60}}
    return optuna.create_study(
        study_name=name,
        storage=optuna.storages.RDBStorage(f"sqlite:///{database}", engine_kwargs=engine),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=SPARED_TRIALS),
    )


def _claim(study: optuna.Study, identity: Mapping[str, JSON]) -> None:
    """Hold the study to what it was begun with."""
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, dict(identity))
        return
    other = [key for key, value in identity.items() if known.get(key) != value]
    if other:
        was = ", ".join(f"another {key} ({known.get(key)!s:.16}, now {identity[key]!s:.16})" for key in other)
        raise InputError(f"study {study.study_name}: was begun with {was}; give another --name")
