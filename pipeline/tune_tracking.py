"""A search in MLflow: a run for the study, one nested in it for each trial, and pictures of it all.

Optuna's database is what counts; this is its mirror. What is there already is found by its tags and left as it is, so a
killed search, or one whose MLflow could not be written for a while, is made whole by the next.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import Run

from pipeline.durable import locked, make_folder, write_json
from pipeline.mlflow_database import DATABASE, failing_clearly, open_client
from pipeline.mlflow_runs import experiment_of, log_params, log_points, log_tags, search
from pipeline.study import Ended
from pipeline.tune import Tuned

EXPERIMENT = "tuning"
STUDY, TRIAL, STATE = "cascade.study", "cascade.trial", "cascade.trial_state"
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


class StudyRuns:
    """The runs of the study called `name`, as `tune` names it.

    Raises InputError for a home whose path MLflow cannot write in a URI, CascadeError naming the database when it
    cannot be opened; so does every method.
    """

    def __init__(self, home: Path, name: str, metric: str) -> None:
        self._home = make_folder(home.resolve())
        self._database = self._home / DATABASE
        self._name, self._metric = name, metric
        with self._exclusively():
            self._client = open_client(self._database, artifacts=self._home / "artifacts")
            self._experiment = experiment_of(self._client, EXPERIMENT, self._home / "artifacts")
            self._parent = self._found_or_made()
            self._kept = set(self._whole())

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        with locked(self._home / ".mlflow.lock"), failing_clearly(self._database):
            yield

    def _found_or_made(self) -> str:
        found = search(self._client, [self._experiment], f"tags.`{STUDY}` = '{self._name}'")
        parent: Run = (
            found[0]
            if found
            else self._client.create_run(self._experiment, tags={STUDY: self._name}, run_name=self._name)
        )
        return str(parent.info.run_id)

    def _whole(self) -> Iterator[int]:
        """The trials that are logged; runs that were cut short are deleted."""
        for run in search(self._client, [self._experiment], f"tags.`mlflow.parentRunId` = '{self._parent}'"):
            if STATE in run.data.tags and run.info.status in _STATUS.values():
                yield int(run.data.tags[TRIAL])
            else:
                self._client.delete_run(run.info.run_id)

    def log_trial(self, trial: Ended) -> None:
        """Log a trial that has ended, unless it is there: its settings, each fold's metric by step, and its state."""
        if trial.number in self._kept:
            return
        with self._exclusively():
            tags = {"mlflow.parentRunId": self._parent, TRIAL: str(trial.number)}
            run = self._client.create_run(self._experiment, tags=tags, run_name=f"trial {trial.number}")
            run_id = run.info.run_id
            log_params(self._client, run_id, trial.settings)
            points = [(f"fold.{self._metric}", value, fold) for fold, value in enumerate(trial.folds)]
            if trial.value is not None:
                points.append((f"cv.{self._metric}", trial.value, 0))
            log_points(self._client, run_id, [*points, ("seconds", trial.seconds, 0)])
            error = {"mlflow.note.content": trial.error} if trial.error else {}
            # The state goes last: a run without it was cut short, and the trial is logged anew.
            log_tags(self._client, run_id, {**error, STATE: trial.state})
            self._client.set_terminated(run_id, _STATUS[trial.state])
            self._kept.add(trial.number)

    def log_summary(self, tuned: Tuned) -> None:
        """Log on the study's run what the search has found so far, its best settings and its pictures."""
        from pipeline import tune_plots

        with self._exclusively(), tempfile.TemporaryDirectory() as folder:
            tune_plots.draw(tuned, Path(folder, "plots"))
            write_json(Path(folder, "settings.json"), tuned.as_settings())
            self._client.log_artifacts(self._parent, folder)
            fixed = {"ranker": tuned.ranker, "metric": tuned.metric, "blank": tuned.blank, "folds": tuned.folds}
            log_params(
                self._client,
                self._parent,
                {**fixed, "seed": tuned.seed, "queries": tuned.queries, "blank_queries": tuned.blank_queries},
            )
            counts = [(f"trials.{state}", float(tuned.count(state)), 0) for state in _STATUS]
            best = tuned.best
            points = [(f"best.cv.{self._metric}", float(best.value or 0.0), 0), ("best.trial", float(best.number), 0)]
            importance = [(f"importance.{name}", share, 0) for name, share in tuned.importance.items()]
            log_points(self._client, self._parent, [*counts, *points, *importance])
            log_tags(self._client, self._parent, {"cascade.data": tuned.fingerprint})
            self._client.set_terminated(self._parent)
