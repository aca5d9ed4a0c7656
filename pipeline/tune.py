"""The search for a ranker's settings: Optuna proposes, by-query cross-validation judges, SQLite remembers.

The first trial is the ranker as it is; then TPE (Bergstra et al., NIPS 2011) proposes. Its random state is made anew
for each trial from the seed and the number of trials that have ended, so a search that was killed goes on with the very
trials that it would have run. A trial that ended never runs again, nor does a fold that a killed trial had scored.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl

from pipeline import build, ltr_settings
from pipeline.cross_validation import Fit, Folds, FoldScore, data_fingerprint
from pipeline.durable import JSON, fingerprint, write_json, writing
from pipeline.search_space import Space, space_fingerprint, space_of, started_from
from pipeline.study import FOLDER, Asked, Ended, Study, check_name, open_study
from rankers.artifact import Setting
from rankers.catalogue import canonical
from retrieval.errors import InputError
from retrieval.metrics import Blank, parse

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
OnTrial = Callable[[str, Ended], None]
"""`on_trial(study, trial)`, called with each trial that has ended."""


@dataclass(frozen=True)
class Tuned:
    """What a search has found so far; `trials` in the order in which they ended.

    kept: settings that every trial has. blank_queries: those of `queries` with nothing relevant. They teach nothing and
    count in the value as `blank` says.
    best: the trial of the highest value. It was chosen by that value, which is therefore optimistic: judge its settings
    on test queries. importance: each setting's share of the value's variance (fANOVA: Hutter et al., ICML 2014).
    """

    study: str
    ranker: str
    kept: Mapping[str, Setting]
    metric: str
    blank: Blank
    folds: int
    seed: int
    queries: int
    blank_queries: int
    fingerprint: str
    trials: tuple[Ended, ...]
    importance: Mapping[str, float]
    settings_file: Path

    @property
    def best(self) -> Ended:
        return max((trial for trial in self.trials if trial.value is not None), key=_value)

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)

    def as_settings(self) -> dict[str, Any]:
        """The best settings, as `cascade ltr --settings` takes them."""
        return {"ranker": self.ranker, "settings": {**self.kept, **self.best.settings}}

    def as_json(self) -> dict[str, Any]:
        return {
            "study": self.study,
            "metric": self.metric,
            "blank": self.blank,
            "folds": self.folds,
            "seed": self.seed,
            "queries": self.queries,
            "blank_queries": self.blank_queries,
            "trials": {state: self.count(state) for state in ("complete", "pruned", "failed")},
            "default": self.trials[0].value,
            "best": asdict(self.best),
            "importance": dict(self.importance),
            "settings_file": str(self.settings_file),
            **self.as_settings(),
        }


def _value(trial: Ended) -> float:
    return trial.value if trial.value is not None else float("-inf")


def _quiet(stage: str, done: int, total: int) -> None:
    """Shows no progress."""


def _unheard(study: str, ended: Ended) -> None:
    """No one listens to the trials."""


def tune(
    ranker: str,
    train: pl.DataFrame,
    valid: pl.DataFrame | None,
    *,
    home: Path,
    trials: int = 50,
    folds: int = 5,
    timeout: float | None = None,
    seed: int = 0,
    metric: str = "ndcg_exp_cut_10",
    blank: Blank = "one",
    name: str | None = None,
    progress: Progress = _quiet,
    on_trial: OnTrial = _unheard,
    fit: Fit = build.fit_ranker,
) -> Tuned:
    """Search the settings of `ranker` on judged FEATURES until the study has `trials` trials, earlier ones included.

    valid: a split to stop training on; without one each fold cuts its own from the queries it trains on. timeout:
    seconds, looked at before every fold; the trial at hand goes on next time. name: of the study (default: made of the
    ranker and of all that decides its trials, so that the same search is taken up by itself). on_trial: called with the
    study's name and each trial that has ended, those of earlier searches first.

    Raises InputError for bad data or numbers, a study of this name made with other data, ranker, space or judging, one
    that another process is searching, and when the ranker as it is cannot be trained; CascadeError for a database that
    cannot be used.
    """
    ranker = canonical(ranker)
    space, kept = started_from(space_of(ranker), ltr_settings.defaults(ranker, train.height))
    parse(metric)
    if trials < 1 or (timeout is not None and timeout <= 0):
        raise InputError(f"trials must be at least 1 and timeout above 0; found {trials} and {timeout}")
    split = Folds.of(train, valid, number=folds, seed=seed)
    identity: dict[str, JSON] = {
        "ranker": ranker,
        "data": data_fingerprint(train, valid),
        "space": space_fingerprint(space),
        "kept": cast(JSON, kept),
        "folds": folds,
        "seed": seed,
        "metric": metric,
        "blank": blank,
    }
    name = check_name(name or f"{ranker}-{fingerprint(identity, 'study')[:12]}")
    with open_study(home, name, identity) as study, _said_once():
        deadline = None if timeout is None else time.monotonic() + timeout
        judge = _Judge(split, ranker, kept, fit, metric, blank, deadline, progress)
        ended = _search(study, space, judge, trials, seed, lambda trial: on_trial(name, trial))
        if not any(trial.value is not None for trial in ended):
            raise InputError(f"study {name}: the time was up before a trial ended; the same command goes on from there")
        importance = study.importance(space, seed)
    found = Tuned(
        study=name,
        ranker=ranker,
        kept=kept,
        metric=metric,
        blank=blank,
        folds=folds,
        seed=seed,
        queries=split.queries.height,
        blank_queries=int(split.queries["blank"].sum()),
        fingerprint=str(identity["data"]),
        trials=ended,
        importance=importance,
        settings_file=home / FOLDER / f"{name}.json",
    )
    with writing("the best settings", home / FOLDER):
        write_json(found.settings_file, found.as_settings())
    return found


class _TimeIsUp(Exception):
    """The timeout has passed between two folds."""


@dataclass(frozen=True)
class _Judge:
    """Scores settings fold by fold."""

    split: Folds
    ranker: str
    kept: Mapping[str, Setting]
    fit: Fit
    metric: str
    blank: Blank
    deadline: float | None
    progress: Progress

    def folds(self, settings: Mapping[str, Setting], known: Sequence[FoldScore]) -> Iterator[FoldScore]:
        """The score of every fold, those already known first. Raises _TimeIsUp between two."""
        for number in range(self.split.number):
            self.progress("folds of this trial", number, self.split.number)
            if number < len(known):
                yield known[number]
                continue
            if self.deadline is not None and time.monotonic() > self.deadline:
                raise _TimeIsUp
            tried = {**self.kept, **settings}
            yield self.split.score(number, self.ranker, tried, fit=self.fit, metric=self.metric, blank=self.blank)
        self.progress("folds of this trial", self.split.number, self.split.number)


def _search(
    study: Study, space: Space, judge: _Judge, trials: int, seed: int, on_trial: Callable[[Ended], None]
) -> tuple[Ended, ...]:
    ended = study.ended()
    for trial in ended:
        on_trial(trial)
    while len(ended) < trials:
        judge.progress("trials", len(ended), trials)
        asked = study.ask(space, seed)
        try:
            _run(asked, judge, study.reference())
        except _TimeIsUp:
            asked.put_off()
            log.warning("the time is up: %d of %d trials have ended; the same command goes on", len(ended), trials)
            break
        ended = study.ended()
        on_trial(ended[-1])
    judge.progress("trials", len(ended), trials)
    return ended


def _run(asked: Asked, judge: _Judge, reference: Sequence[FoldScore]) -> None:
    """Score one trial and tell the study how it ended.

    Pruning compares what is reported after each fold: the mean so far less that of the first trial on the same folds.
    Folds are not equally hard, and Optuna's median pruner takes a trial's best report so far for its own.
    """
    scores: list[FoldScore] = []
    start = time.monotonic()
    try:
        for score in judge.folds(asked.settings, asked.known):
            scores.append(score)
            asked.report(scores, _mean(scores) - _mean(reference[: len(scores)] or scores))
            if len(scores) < judge.split.number and asked.should_prune():
                asked.prune(time.monotonic() - start)
                return
    except InputError as error:
        if asked.first:
            raise
        log.warning("a trial failed and the search goes on: %s", error)
        asked.fail(str(error))
        return
    asked.complete(_mean(scores), time.monotonic() - start)


def _mean(scores: Sequence[FoldScore]) -> float:
    return sum(score.total for score in scores) / sum(score.queries for score in scores)


@contextmanager
def _said_once() -> Iterator[None]:
    """The queries with nothing relevant are counted once for all (`Tuned.blank_queries`), not anew in each fold."""
    slates = logging.getLogger("rankers.slates")
    before = slates.level
    slates.setLevel(logging.ERROR)
    try:
        yield
    finally:
        slates.setLevel(before)
