"""An evaluation in MLflow: a run for it, and within it one for each system, with its figures, plots and model."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, LoggedModelInput, Run

from pipeline import mlflow_runs
from pipeline.comparable import Judged, content_of, tags_of
from pipeline.durable import fingerprint, write_json
from pipeline.evaluated import Evaluation, SystemFigures
from pipeline.reasons import Reasons
from pipeline.registry import model_name
from retrieval.metrics import fill_blank

PARENT = "cascade.evaluation"


@dataclass(frozen=True)
class Extras:
    """What is known of a system beside its figures; all of it may be missing.

    key: SHA-256 of everything that made it: versions in the registry are told apart by it.
    ranker: its artifact's folder, stored as an MLflow model; model_id: the MLflow model that it is already.
    params, seed: for people to read. metrics: more numbers, such as `train_s`.
    valid: its figures a validation query (`metrics.per_query`), which alone decide whether it becomes champion.
    curve: `step` and a Float64 column a metric. importance: feature → mean absolute contribution.
    reasons: of a sample of rows, for the SHAP summary, and for the importance where that is not given.
    """

    key: str | None = None
    ranker: Path | None = None
    model_id: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    seed: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    valid: pl.DataFrame | None = None
    curve: pl.DataFrame | None = None
    importance: Mapping[str, float] = field(default_factory=dict)
    reasons: Reasons | None = None


@dataclass(frozen=True)
class EvaluationRuns:
    """Where an evaluation is in MLflow: its run, and each system's."""

    run_id: str
    systems: Mapping[str, str]


def log_evaluation(
    client: MlflowClient,
    evaluation: Evaluation,
    extras: Mapping[str, Extras],
    *,
    dataset: str,
    data_fingerprint: str,
    artifacts: Path,
) -> EvaluationRuns:
    """Log `evaluation` of the data set, or find it where the same one was logged; see `Tracker.log_evaluation`."""
    experiment = mlflow_runs.experiment_of(client, dataset, artifacts)
    keys = {system.name: _key(system, extras.get(system.name, Extras())) for system in evaluation.systems}
    state = fingerprint({"evaluation": evaluation.as_json(), "keys": keys, "data": data_fingerprint}, "evaluation")
    finished = "attributes.status = 'FINISHED'"
    for parent in mlflow_runs.search(client, [experiment], f"tags.`{PARENT}` = '{state}' AND {finished}"):
        nested = mlflow_runs.search(client, [experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        return EvaluationRuns(parent.info.run_id, {run.info.run_name: run.info.run_id for run in nested})
    log = _Log(client, evaluation, dataset, data_fingerprint)
    parent = client.create_run(experiment, tags=log.tags(state), run_name=f"evaluation: {dataset} {evaluation.split}")
    try:
        client.log_inputs(parent.info.run_id, [log.data])
        log.summary(parent)
        children = {name: log.system(parent, name, key, extras.get(name, Extras())) for name, key in keys.items()}
    except BaseException:
        client.set_terminated(parent.info.run_id, "FAILED")
        raise
    client.set_terminated(parent.info.run_id)
    return EvaluationRuns(parent.info.run_id, children)


@dataclass(frozen=True)
class _Log:
    client: MlflowClient
    evaluation: Evaluation
    dataset: str
    fingerprint: str

    @property
    def data(self) -> DatasetInput:
        profile: dict[str, str | int] = {"split": self.evaluation.split, "queries": self.evaluation.queries}
        return mlflow_runs.data_input(self.dataset, self.fingerprint, profile)

    def tags(self, state: str) -> dict[str, str]:
        e = self.evaluation
        return {
            PARENT: state,
            "cascade.dataset": self.dataset,
            "cascade.data": self.fingerprint,
            "cascade.model": model_name(self.dataset, self.fingerprint),
            "cascade.metric": e.metric,
            "cascade.blank": e.blank,
            "cascade.split": e.split,
            "cascade.qrels": e.fingerprints.qrels,
            "cascade.queries": str(e.queries),
            "cascade.blank_queries": str(e.blank_queries),
            "cascade.best": e.systems[0].name,
            "cascade.judged": str(mlflow_runs.now()),
            "mlflow.note.content": "\n\n".join(e.notes),
        }

    def summary(self, parent: Run) -> None:
        """What is about all systems: the whole as JSON, tables as Parquet and as MLflow shows them, plots."""
        # Drawing is slow to import, and an evaluation that is known already draws nothing.
        from pipeline import evaluation_plots
        from pipeline.evaluation_tables import groups_frame, pairs_frame, systems_frame

        run_id = parent.info.run_id
        tables = {name: make(self.evaluation) for name, make in (("systems", systems_frame), ("pairs", pairs_frame))}
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder, "evaluation.json"), self.evaluation.as_json())
            for name, frame in {**tables, "groups": groups_frame(self.evaluation)}.items():
                if frame.height:
                    frame.write_parquet(Path(folder, f"{name}.parquet"))
            evaluation_plots.draw(self.evaluation, Path(folder, "plots"), dataset=self.dataset)
            self.client.log_artifacts(run_id, folder)
        with warnings.catch_warnings():
            # MLflow asks pandas for text columns in a way that pandas 3 calls old.
            warnings.filterwarnings("ignore", message=".*'str' dtypes are included by select_dtypes")
            for name, frame in tables.items():
                if frame.height:
                    self.client.log_table(run_id, frame.to_dict(as_series=False), f"{name}.json")

    def system(self, parent: Run, name: str, key: str, extras: Extras) -> str:
        """A system's nested run; returns its id."""
        figures, e = self.evaluation.system(name), self.evaluation
        judged = Judged(
            figures.per_query, e.fingerprints, e.split, figures.candidates, figures.features, figures.answered
        )
        tags = {
            "mlflow.parentRunId": parent.info.run_id,
            "cascade.key": key,
            "cascade.stage": "rank" if extras.ranker else "evaluate",
            "cascade.blank": e.blank,
            "cascade.metric": e.metric,
            "cascade.per_query": mlflow_runs.slug(e.split),
            "cascade.label": figures.label,
            **tags_of(judged),
        }
        run = self.client.create_run(parent.info.experiment_id, tags=tags, run_name=name)
        run_id = str(run.info.run_id)
        try:
            self._fill(run, figures, key, extras)
        except BaseException:
            self.client.set_terminated(run_id, "FAILED")
            raise
        self.client.set_terminated(run_id)
        return run_id

    def _fill(self, run: Run, figures: SystemFigures, key: str, extras: Extras) -> None:
        run_id = run.info.run_id
        seed = {} if extras.seed is None else {"seed": extras.seed}
        params = {**extras.params, **seed, "blank": self.evaluation.blank, "metric": self.evaluation.metric}
        mlflow_runs.log_params(self.client, run_id, params)
        self.client.log_inputs(run_id, [self.data])
        frames = {self.evaluation.split: figures.per_query}
        mlflow_runs.log_per_query(
            self.client, run_id, frames if extras.valid is None else {"valid": extras.valid, **frames}
        )
        model_id = extras.model_id
        if extras.model_id is not None:
            self.client.log_inputs(run_id, models=[LoggedModelInput(extras.model_id)])
            self.client.set_tag(run_id, "cascade.model_id", extras.model_id)
        elif extras.ranker is not None:
            model_id = mlflow_runs.log_model(
                self.client, run, name=figures.name, key=key, params=extras.params, ranker=extras.ranker
            )
        points = [*_points(self.evaluation, figures), *_more(extras)]
        mlflow_runs.log_points(self.client, run_id, points, model_id=model_id, data=self.data)
        mlflow_runs.log_points(self.client, run_id, mlflow_runs.curve_points(extras.curve))
        self._plots(run_id, figures.name, extras)

    def _plots(self, run_id: str, name: str, extras: Extras) -> None:
        from pipeline import plots, reason_plots

        where = f"{self.dataset}, {self.evaluation.split}"
        importance = extras.importance or (extras.reasons.importance() if extras.reasons else {})
        drawn = {}
        if importance:
            drawn["importance"] = plots.importance_bars(f"{name}: what its score rests on\n{where}", importance)
        if extras.reasons is not None:
            drawn["shap_summary"] = reason_plots.summary(extras.reasons, title=f"{name}: contributions\n{where}")
        if extras.curve is not None and extras.curve.width > 1 and extras.curve.height:
            drawn["learning_curve"] = plots.curve_panels(f"{name}: learning curve\n{self.dataset}", extras.curve)
        with tempfile.TemporaryDirectory() as folder:
            for plot, figure in drawn.items():
                figure.savefig(Path(folder, f"{plot}.png"), dpi=plots.DPI)
            if drawn:
                self.client.log_artifacts(run_id, folder, "plots")


def _key(system: SystemFigures, extras: Extras) -> str:
    """What tells this system from others: the caller's key, else its figures query by query."""
    return extras.key or content_of(system.per_query.fill_null(-1.0))


def _points(evaluation: Evaluation, system: SystemFigures) -> Iterator[tuple[str, float, int]]:
    """(metric, value, step), each mean under the name of its convention: `test.ndcg_exp_cut_10.one`."""
    split = mlflow_runs.slug(evaluation.split)
    for metric, value in system.metrics.items():
        means = {"zero": value.zero, "one": value.one, "skip": value.skip}
        yield from ((f"{split}.{metric}.{blank}", mean, 0) for blank, mean in means.items() if mean is not None)
        yield f"{split}.{metric}.low", value.ci95[0], 0
        yield f"{split}.{metric}.high", value.ci95[1], 0
    yield f"{split}.mean_rank", system.mean_rank, 0
    gain = "ndcg_exp_by_k" if evaluation.metric.startswith("ndcg_exp_cut") else "ndcg_by_k"
    yield from ((f"{split}.{gain}.{evaluation.blank}", mean, k) for k, (mean, _, _) in system.ndcg_by_k.items())
    best = evaluation.systems[0]
    if system is not best:
        pair = evaluation.pair(best.name, system.name)
        yield f"{split}.behind_best", pair.difference, 0
        yield f"{split}.behind_best_p_holm", pair.p_holm, 0


def _more(extras: Extras) -> Iterator[tuple[str, float, int]]:
    yield from ((name, float(value), 0) for name, value in extras.metrics.items())
    if extras.valid is None:
        return
    for blank in ("zero", "one", "skip"):
        means = fill_blank(extras.valid, blank).drop("qid").mean().row(0, named=True)
        yield from ((f"valid.{metric}.{blank}", mean, 0) for metric, mean in means.items() if mean is not None)
