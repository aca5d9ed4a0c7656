"""`cascade tune` as a Python call: LETOR files in, the best settings out, the search in MLflow."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.search_space import space_of
from pipeline.study import Ended
from pipeline.tune import Progress, Tuned, tune
from retrieval.errors import CascadeError
from retrieval.letor import read_letor
from retrieval.metrics import Blank, parse

if TYPE_CHECKING:
    from pipeline.tune_tracking import StudyRuns

log = logging.getLogger(__name__)


def tune_files(
    ranker: str,
    train: Sequence[Path],
    valid: Sequence[Path],
    *,
    home: Path,
    trials: int,
    folds: int,
    timeout: float | None,
    seed: int,
    metric: str,
    blank: Blank,
    name: str | None,
    progress: Progress,
) -> Tuned:
    """Search the settings of `ranker` on LETOR files; see `pipeline.tune.tune`.

    The trials go to MLflow as they end. Where MLflow cannot be written a warning says why, and the search goes on: the
    next one makes up for it. Raises InputError and CascadeError as `read_letor` and `tune` do.
    """
    space_of(ranker)  # before files are read for nothing
    parse(metric)
    frame = read_letor(train, progress=lambda done, total: progress("read train", done, total))
    stopping = read_letor(valid, progress=lambda done, total: progress("read valid", done, total)) if valid else None
    mirror = _Mirror(home, metric)
    found = tune(
        ranker,
        frame,
        stopping,
        home=home,
        trials=trials,
        folds=folds,
        timeout=timeout,
        seed=seed,
        metric=metric,
        blank=blank,
        name=name,
        progress=progress,
        on_trial=mirror.log_trial,
    )
    mirror.log_summary(found)
    return found


class _Mirror:
    """Keeps MLflow up with the search, until that fails."""

    def __init__(self, home: Path, metric: str) -> None:
        self._home, self._metric = home, metric
        self._runs: StudyRuns | None = None
        self._failed = False

    def log_trial(self, study: str, trial: Ended) -> None:
        self._try(study, lambda runs: runs.log_trial(trial))

    def log_summary(self, tuned: Tuned) -> None:
        self._try(tuned.study, lambda runs: runs.log_summary(tuned))

    def _try(self, study: str, write: "Callable[[StudyRuns], None]") -> None:
        if self._failed:
            return
        from pipeline.tune_tracking import StudyRuns

        try:
            if self._runs is None:
                self._runs = StudyRuns(self._home, study, self._metric)
            write(self._runs)
        except CascadeError as error:
            self._failed = True
            log.warning("the search is not in MLflow: %s", error)
