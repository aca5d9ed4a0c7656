"""Runs, models and champions in MLflow, under the home folder. Nothing else in Cascade speaks to MLflow.

    home/mlflow.db      experiment = data set; parent run = its fingerprint; child run = system; model registry
    home/artifacts/     figures a query, plots, models (source text and ranker folders, never a pickle)

What is logged once is found again by its tags, so logging unchanged work writes nothing.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from mlflow.entities import DatasetInput, Run
from mlflow.entities.model_registry import ModelVersion

from pipeline import mlflow_runs, stored_model
from pipeline.comparable import Judged, feature_set, ranked_pairs, tags_of
from pipeline.durable import fingerprint, locked, make_folder, write_json
from pipeline.evaluated import Evaluation
from pipeline.evaluation_log import PARENT as EVALUATION_TAG
from pipeline.evaluation_log import EvaluationRuns, Extras, log_evaluation
from pipeline.mlflow_database import DATABASE, failing_clearly, open_client
from pipeline.promotion import Promotion
from pipeline.registry import Registry, Rollback, model_name
from pipeline.results import Leaderboard, System
from pipeline.stored_model import StoredModel
from pipeline.tracked import Tracked, find_tracked
from rankers import artifact
from retrieval.metrics import Blank, mean

__all__ = ["Extras", "Promotion", "Tracker"]


class Tracker:
    """MLflow under `home`: made on first use, safe to open from several processes at once.

    Raises InputError for a home whose path MLflow cannot write in a URI, CascadeError naming the database when it
    cannot be opened; so does every method.
    """

    def __init__(self, home: Path) -> None:
        self._home = make_folder(home.resolve())
        self._database = self._home / DATABASE
        with self._exclusively():
            self._client = open_client(self._database, artifacts=self._home / "artifacts")
        self._registry = Registry(self._client)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        with locked(self._home / ".mlflow.lock"), failing_clearly(self._database):
            yield

    def log(self, board: Leaderboard) -> dict[str, str]:
        """Log what is new on `board`: system name → its run's id.

        A system whose key and blank policy are under this fingerprint already keeps its run; only its standing against
        the baseline, which depends on the systems beside it, is written again when the leaderboard has changed.
        """
        with self._exclusively():
            parent = self._parent(board)
            known = {
                (run.info.run_name, run.data.tags["cascade.key"]): run.info.run_id
                for run in self.systems(parent, board.blank)
            }
            state = fingerprint({"board": board.as_json(), "keys": [system.key for system in board.systems]}, "board")
            found = {system.name: known.get((system.name, system.key)) for system in board.systems}
            if parent.data.tags.get("cascade.state") == state and None not in found.values():
                return {name: run_id for name, run_id in found.items() if run_id}
            run_ids = {}
            for name, run_id in found.items():
                if run_id:
                    self._log_standing(run_id, board, name)
                run_ids[name] = run_id or self._log_system(parent, board, name)
            self._log_summary(parent, board)
            self._client.set_tag(parent.info.run_id, "cascade.state", state)
            return run_ids

    def data_sets(self) -> list[Run]:
        """The parent runs, one a data-set fingerprint, newest first."""
        experiments = mlflow_runs.all_experiments(self._client)
        return mlflow_runs.search(self._client, experiments, "tags.`cascade.fingerprint` LIKE '%'")

    def systems(self, parent: Run, blank: str) -> list[Run]:
        """The finished runs of systems under `parent` with this blank policy (others do not compare), newest first."""
        within = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND tags.`cascade.blank` = '{blank}'"
        finished = f"{within} AND attributes.status = 'FINISHED'"
        return mlflow_runs.search(self._client, [parent.info.experiment_id], finished)

    def evaluations(self) -> list[Run]:
        """The runs of finished evaluations, newest first; their tags say of what."""
        experiments = mlflow_runs.all_experiments(self._client)
        finished = f"tags.`{EVALUATION_TAG}` LIKE '%' AND attributes.status = 'FINISHED'"
        return mlflow_runs.search(self._client, experiments, finished)

    def nested(self, parent: Run) -> list[Run]:
        """The finished runs of the systems of an evaluation."""
        within = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND attributes.status = 'FINISHED'"
        return mlflow_runs.search(self._client, [parent.info.experiment_id], within)

    def aliases(self, parent: Run) -> dict[str, ModelVersion]:
        """Alias → version in the registry of `parent`'s data set; its tags hold the system's name and key."""
        return self._registry.versions(parent.data.tags["cascade.model"])[1]

    def _parent(self, board: Leaderboard) -> Run:
        experiment = mlflow_runs.experiment_of(self._client, board.dataset, self._home / "artifacts")
        found = mlflow_runs.search(self._client, [experiment], f"tags.`cascade.fingerprint` = '{board.fingerprint}'")
        if found:
            return found[0]
        tags = {
            "cascade.dataset": board.dataset,
            "cascade.fingerprint": board.fingerprint,
            "cascade.model": model_name(board.dataset, board.fingerprint),
        }
        run = self._client.create_run(experiment, tags=tags, run_name=f"{board.dataset} {board.fingerprint[:12]}")
        self._client.log_inputs(run.info.run_id, [_data(board)])
        return run

    def _log_system(self, parent: Run, board: Leaderboard, name: str) -> str:
        system = board.system(name)
        tags = {
            "mlflow.parentRunId": parent.info.run_id,
            "cascade.key": system.key,
            "cascade.stage": system.stage,
            "cascade.blank": board.blank,
            **_comparable_tags(board, system),
        }
        run = self._client.create_run(parent.info.experiment_id, tags=tags, run_name=name)
        run_id = run.info.run_id
        try:
            mlflow_runs.log_params(self._client, run_id, {**system.params, "blank": board.blank})
            points = [*_figures(system, board), *mlflow_runs.curve_points(system.curve)]
            mlflow_runs.log_points(self._client, run_id, points)
            self._client.log_inputs(run_id, [_data(board)])
            mlflow_runs.log_per_query(self._client, run_id, system.per_query)
            mlflow_runs.log_model(
                self._client, run, name=name, key=system.key, params=system.params, ranker=system.ranker
            )
            self._log_standing(run_id, board, name)
        except BaseException:
            self._client.set_terminated(run_id, "FAILED")
            raise
        self._client.set_terminated(run_id)
        return str(run_id)

    def _log_standing(self, run_id: str, board: Leaderboard, name: str) -> None:
        if versus := board.versus.get(name):
            low, high = versus.ci95
            standing = {"difference": versus.difference, "difference_low": low, "difference_high": high}
            points = {**standing, "p_value": versus.p_value}
            mlflow_runs.log_points(self._client, run_id, [(f"test.{key}", value, 0) for key, value in points.items()])
        tags = {"cascade.baseline": board.baseline, "cascade.judged": str(mlflow_runs.now())}
        mlflow_runs.log_tags(self._client, run_id, tags)

    def _log_summary(self, parent: Run, board: Leaderboard) -> None:
        # Only a changed leaderboard is drawn, and drawing is slow to import.
        from pipeline import plots

        run_id = parent.info.run_id
        with tempfile.TemporaryDirectory() as folder:
            plots.draw(board, Path(folder, "plots"))
            write_json(Path(folder, "leaderboard.json"), board.as_json())
            self._client.log_artifacts(run_id, folder)
        tags = {
            "cascade.split": board.split,
            "cascade.blank": board.blank,
            "cascade.queries": str(board.queries),
            "cascade.baseline": board.baseline,
            "mlflow.note.content": "\n\n".join(board.notes),
        }
        mlflow_runs.log_tags(self._client, run_id, tags)
        self._client.set_terminated(run_id)

    def promote(self, board: Leaderboard, run_ids: Mapping[str, str]) -> Promotion:
        """Put the selected system of `board` forward as champion of its data-set fingerprint; see `Registry`.

        Test figures decide nothing. `run_ids` is what `log` returned.
        """
        return self.promote_run(
            run_ids[board.selected], dataset=board.dataset, fingerprint=board.fingerprint, blank=board.blank
        )

    def log_evaluation(
        self, evaluation: Evaluation, *, dataset: str, fingerprint: str, extras: Mapping[str, Extras] | None = None
    ) -> EvaluationRuns:
        """Log an evaluation on the data set with this name and fingerprint (SHA-256 of its content).

        The evaluation is a run in the experiment `dataset`, each system a run nested in it: figures by the names of
        their conventions, the figures a query, plots, and the model of a system whose `extras` have a ranker, linked
        to the data set. Nothing is promoted: see `promote_run`. The same evaluation again writes nothing.
        """
        with self._exclusively():
            return log_evaluation(
                self._client,
                evaluation,
                extras or {},
                dataset=dataset,
                data_fingerprint=fingerprint,
                artifacts=self._home / "artifacts",
            )

    def load_model(self, uri: str, folder: Path) -> StoredModel:
        """The model of a `models:/` or `runs:/` URI, copied to `folder` and verified; see `pipeline.stored_model`."""
        with self._exclusively():
            place = stored_model.find(self._client, uri)
        return stored_model.load(place, folder)

    def tracked(self, system: str, *, split: str, qrels: str | None = None) -> Tracked:
        """A tracked system's figures a query, by its run id or its name; of several of one name the latest.

        qrels: the fingerprint of the judgements wanted. Raises InputError where nothing of that name was tracked, or
        nothing that was judged on this split by these judgements.
        """
        with self._exclusively():
            return find_tracked(self._client, system, split=split, qrels=qrels)

    def promote_run(
        self, run_id: str, *, dataset: str, fingerprint: str, blank: Blank, metric: str = "ndcg_cut_10"
    ) -> Promotion:
        """Put a tracked system forward by its run, as `Registry.put_forward` says; `metric` decides, on validation."""
        with self._exclusively():
            run = self._client.get_run(run_id)
            return self._registry.put_forward(run, dataset=dataset, fingerprint=fingerprint, blank=blank, metric=metric)

    def roll_back(self, model: str) -> Rollback:
        """Exchange champion and previous of a registered model; see `Registry.roll_back`."""
        with self._exclusively():
            return self._registry.roll_back(model)

    def plan_rollback(self, model: str) -> Rollback:
        """What `roll_back` would do."""
        with self._exclusively():
            return self._registry.plan_rollback(model)

    def follow_bundle(self, bundle: str, dataset_fingerprint: str, system_key: str) -> Rollback | None:
        """Make the registry's champion the system that `bundle` serves; see `Registry.follow_bundle`."""
        with self._exclusively():
            return self._registry.follow_bundle(bundle, dataset_fingerprint, system_key)

    def set_bundle(self, promotion: Promotion, name: str) -> None:
        """Remember that the bundle `name` serves the system that was put forward."""
        with self._exclusively():
            self._registry.set_bundle(promotion.model, promotion.version, name)

    def champion_bundle(self, data_fingerprint: str) -> str | None:
        """The bundle of the champion of a data-set fingerprint; None where there is no champion or it has none."""
        with self._exclusively():
            return self._registry.champion_bundle(data_fingerprint)


def _comparable_tags(board: Leaderboard, system: System) -> dict[str, str]:
    """What later evaluations must know of a system to compare with it."""
    if board.judged_on is None:
        return {}
    figures = system.per_query["test"]
    candidates, answered = (
        (None, None) if system.run is None else ranked_pairs(pl.read_parquet(system.run), figures["qid"])
    )
    features = None if system.ranker is None else feature_set(artifact.read(system.ranker).feature_names)
    judged = Judged(figures, board.judged_on, board.split, candidates, features, answered)
    return {**tags_of(judged), "cascade.per_query": "test"}


def _data(board: Leaderboard) -> DatasetInput:
    profile: dict[str, str | int] = {"split": board.split, "queries": board.queries}
    return mlflow_runs.data_input(board.dataset, board.fingerprint, profile)


def _figures(system: System, board: Leaderboard) -> Iterator[tuple[str, float, int]]:
    """(metric, value, step) of everything that is one number, NDCG by k with k as its step."""
    low, high = system.ci95
    yield "test.ndcg_cut_10_low", low, 0
    yield "test.ndcg_cut_10_high", high, 0
    yield "ms_per_query", system.ms_per_query, 0
    yield from ((f"test.{name}", value, 0) for name, value in system.metrics.items())
    yield from ((f"ms.{stage}", value, 0) for stage, value in system.stage_ms.items())
    yield from (("test.ndcg_by_k", value, k) for k, value in system.ndcg_by_k.items())
    if "valid" in system.per_query:
        means = mean(system.per_query["valid"], board.blank)
        yield from ((f"valid.{name}", value, 0) for name, value in means.items())
