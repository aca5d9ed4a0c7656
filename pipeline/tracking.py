"""Runs, models and champions in MLflow, under the home folder. Nothing else in Cascade speaks to MLflow.

    home/mlflow.db      experiment = data set; parent run = its fingerprint; child run = system; model registry
    home/artifacts/     figures a query, plots, models (source text and ranker folders, never a pickle)

What is logged once is found again by its tags, so logging unchanged work writes nothing.
"""

import json
import math
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion

from pipeline.durable import fingerprint, locked, make_folder, write_json
from pipeline.mlflow_database import DATABASE, failing_clearly, open_client
from pipeline.mlflow_model import save_model
from pipeline.promotion import Promotion, judge
from pipeline.results import Leaderboard, System
from retrieval.errors import CascadeError
from retrieval.metrics import mean

__all__ = ["Promotion", "Tracker"]

PER_QUERY = "per_query"
# A batch holds at most 1,000 metrics and 100 params (MLflow's REST limits, which its stores enforce).
_METRICS_A_BATCH, _PARAMS_A_BATCH = 1000, 100
_DIGEST_LENGTH = 36


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
        experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
        return self._search(experiments, "tags.`cascade.fingerprint` LIKE '%'")

    def systems(self, parent: Run, blank: str) -> list[Run]:
        """The finished runs of systems under `parent` with this blank policy (others do not compare), newest first."""
        within = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND tags.`cascade.blank` = '{blank}'"
        return self._search([parent.info.experiment_id], f"{within} AND attributes.status = 'FINISHED'")

    def aliases(self, parent: Run) -> dict[str, ModelVersion]:
        """Alias → version in the registry of `parent`'s data set; its tags hold the system's name and key."""
        return self._versions(parent.data.tags["cascade.model"])[1]

    def _search(self, experiments: list[str], filter_string: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while experiments:
            page = self._client.search_runs(experiments, filter_string, order_by=["start_time DESC"], page_token=token)
            runs.extend(page)
            if not (token := page.token):
                break
        return runs

    def _parent(self, board: Leaderboard) -> Run:
        experiment = self._client.get_experiment_by_name(board.dataset)
        if experiment:
            experiment_id = experiment.experiment_id
            found = self._search([experiment_id], f"tags.`cascade.fingerprint` = '{board.fingerprint}'")
            if found:
                return found[0]
        else:
            location = self._home / "artifacts" / _slug(board.dataset)
            experiment_id = self._client.create_experiment(board.dataset, artifact_location=location.as_uri())
        model = f"cascade-{_slug(board.dataset)}-{board.fingerprint[:12]}"
        tags = {
            "cascade.dataset": board.dataset,
            "cascade.fingerprint": board.fingerprint,
            "cascade.model": model,
        }
        run = self._client.create_run(experiment_id, tags=tags, run_name=f"{board.dataset} {board.fingerprint[:12]}")
        self._client.log_inputs(run.info.run_id, [_dataset_input(board)])
        return run

    def _log_system(self, parent: Run, board: Leaderboard, name: str) -> str:
        system = board.system(name)
        tags = {
            "mlflow.parentRunId": parent.info.run_id,
            "cascade.key": system.key,
            "cascade.stage": system.stage,
            "cascade.blank": board.blank,
        }
        run = self._client.create_run(parent.info.experiment_id, tags=tags, run_name=name)
        run_id = run.info.run_id
        try:
            params = [Param(key, str(value)) for key, value in {**system.params, "blank": board.blank}.items()]
            for start in range(0, len(params), _PARAMS_A_BATCH):
                self._client.log_batch(run_id, params=params[start : start + _PARAMS_A_BATCH])
            self._log_metrics(run_id, [*_figures(system, board), *_curve(system)])
            self._client.log_inputs(run_id, [_dataset_input(board)])
            with tempfile.TemporaryDirectory() as folder:
                for split, figures in system.per_query.items():
                    figures.write_parquet(Path(folder, f"{split}.parquet"))
                self._client.log_artifacts(run_id, folder, PER_QUERY)
            self._log_model(run, system)
            self._log_standing(run_id, board, name)
        except BaseException:
            self._client.set_terminated(run_id, "FAILED")
            raise
        self._client.set_terminated(run_id)
        return str(run_id)

    def _log_metrics(self, run_id: str, points: Iterable[tuple[str, float, int]]) -> None:
        now = _now()
        metrics = [Metric(name, value, now, step) for name, value, step in points if math.isfinite(value)]
        for start in range(0, len(metrics), _METRICS_A_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_BATCH])

    def _log_standing(self, run_id: str, board: Leaderboard, name: str) -> None:
        if versus := board.versus.get(name):
            low, high = versus.ci95
            standing = {"difference": versus.difference, "difference_low": low, "difference_high": high}
            points = {**standing, "p_value": versus.p_value}
            self._log_metrics(run_id, [(f"test.{metric}", value, 0) for metric, value in points.items()])
        tags = {"cascade.baseline": board.baseline, "cascade.judged": str(_now())}
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

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
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._client.set_terminated(run_id)

    def _log_model(self, run: Run, system: System) -> None:
        run_id = run.info.run_id
        model: LoggedModel = self._client.create_logged_model(
            run.info.experiment_id,
            name=system.name,
            source_run_id=run_id,
            tags={"cascade.key": system.key},
            params={key: str(value) for key, value in system.params.items()},
            model_type="ranker",
        )
        self._client.set_tag(run_id, "cascade.model_id", model.model_id)
        with tempfile.TemporaryDirectory() as folder:
            save_model(system, model, run_id, Path(folder, "model"))
            self._client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])

    def promote(self, board: Leaderboard, run_ids: Mapping[str, str]) -> Promotion:
        """Put the selected system of `board` forward as champion of its data-set fingerprint.

        The first is champion; a later one replaces it when `pipeline.promotion.judge` finds it better on the VALIDATION
        queries, else it is the challenger. Test figures decide nothing. `run_ids` is what `log` returned.
        """
        with self._exclusively():
            run = self._client.get_run(run_ids[board.selected])
            model = self._client.get_run(run.data.tags["mlflow.parentRunId"]).data.tags["cascade.model"]
            by_key, by_alias = self._versions(model)
            mine = by_key.get(run.data.tags["cascade.key"]) or self._register(model, board, run)
            champion = by_alias.get("champion")
            label, number = f"{board.selected} (version {mine.version})", str(mine.version)
            if champion is None:
                self._alias(model, "champion", mine)
                reason = f"{label} is the first champion of {board.dataset}"
                return Promotion(board.selected, "champion", model, number, None, None, None, reason)
            name = champion.tags["cascade.system"]
            if champion.version == mine.version:
                reason = f"{label} is the champion already"
                return Promotion(name, "unchanged", model, number, name, None, None, reason)
            verdict = judge(self._validation(mine.run_id), self._validation(champion.run_id), board.blank)
            figures = (verdict.p_value, verdict.difference)
            other = f"{name} (version {champion.version})"
            if not verdict.better:
                self._alias(model, "challenger", mine)
                reason = f"{label} does not replace {other}: {verdict.words}"
                return Promotion(name, "challenger", model, number, name, *figures, reason)
            self._alias(model, "previous", champion)
            self._alias(model, "champion", mine)
            if (challenger := by_alias.get("challenger")) and challenger.version == mine.version:
                self._client.delete_registered_model_alias(model, "challenger")
            reason = f"{label} replaces {other}: {verdict.words}"
            return Promotion(board.selected, "champion", model, number, name, *figures, reason)

    def _alias(self, model: str, alias: str, version: ModelVersion) -> None:
        self._client.set_registered_model_alias(model, alias, version.version)

    def set_bundle(self, promotion: Promotion, name: str) -> None:
        """Remember that the bundle `name` serves the system that was put forward."""
        with self._exclusively():
            self._client.set_model_version_tag(promotion.model, promotion.version, "bundle", name)

    def champion_bundle(self, data_fingerprint: str) -> str | None:
        """The bundle of the champion of a data-set fingerprint; None where there is no champion or it has none."""
        with self._exclusively():
            models = self._client.search_registered_models(f"tags.fingerprint = '{data_fingerprint}'")
            champions = [self._versions(model.name)[1].get("champion") for model in models]
            return next((champion.tags.get("bundle") for champion in champions if champion), None)

    def _versions(self, model: str) -> tuple[dict[str, ModelVersion], dict[str, ModelVersion]]:
        """The versions of `model` by system key, and by alias; both empty where it is not registered."""
        found = self._client.search_registered_models(f"name = '{model}'")
        versions = {v.version: v for v in self._client.search_model_versions(f"name = '{model}'")}
        aliases = found[0].aliases if found else {}
        by_alias = {alias: versions[number] for alias, number in aliases.items() if number in versions}
        return {v.tags["cascade.key"]: v for v in versions.values() if "cascade.key" in v.tags}, by_alias

    def _register(self, model: str, board: Leaderboard, run: Run) -> ModelVersion:
        if not self._client.search_registered_models(f"name = '{model}'"):
            tags = {"fingerprint": board.fingerprint, "dataset": board.dataset}
            self._client.create_registered_model(model, tags)
        tags = {"cascade.key": run.data.tags["cascade.key"], "cascade.system": run.info.run_name}
        logged = self._client.get_logged_model(run.data.tags["cascade.model_id"])
        # A `models:/` source would be looked up in MLflow's global store, not in this one.
        return self._client.create_model_version(
            model, logged.artifact_location, run.info.run_id, tags, model_id=logged.model_id, await_creation_for=0
        )

    def _validation(self, run_id: str) -> pl.DataFrame | None:
        listed = {file.path for file in self._client.list_artifacts(run_id, PER_QUERY)}
        if (path := f"{PER_QUERY}/valid.parquet") not in listed:
            return None
        with tempfile.TemporaryDirectory() as folder:
            try:
                return pl.read_parquet(self._client.download_artifacts(run_id, path, folder))
            except pl.exceptions.PolarsError as error:
                message = f"run {run_id}: its {path} is damaged; delete the run in MLflow and run again"
                raise CascadeError(message) from error


def _now() -> int:
    """Milliseconds since the epoch, as MLflow counts."""
    return time.time_ns() // 1_000_000


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "data"


def _dataset_input(board: Leaderboard) -> DatasetInput:
    source = json.dumps({"tags": {"fingerprint": board.fingerprint}})
    profile = json.dumps({"split": board.split, "queries": board.queries})
    data = Dataset(board.dataset, board.fingerprint[:_DIGEST_LENGTH], "code", source, profile=profile)
    return DatasetInput(data, [InputTag("mlflow.data.context", "evaluation")])


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


def _curve(system: System) -> Iterator[tuple[str, float, int]]:
    if system.curve is None:
        return
    for name in system.curve.drop("step").columns:
        # MLflow refuses the `@` of LightGBM's metric names.
        points = system.curve.select("step", name).drop_nulls().iter_rows()
        yield from ((f"curve.{name.replace('@', '_')}", value, step) for step, value in points)
