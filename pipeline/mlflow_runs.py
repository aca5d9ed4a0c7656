"""What every logger asks of an MLflow client: runs found and filled, data sets named, models stored and checksummed.

The caller holds the database's lock (`pipeline.tracking`).
"""

import json
import math
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
from mlflow import MlflowClient
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

from pipeline.mlflow_model import FILES_TAG, save_model

PER_QUERY = "per_query"
# A batch holds at most 1,000 metrics and 100 params (MLflow's REST limits, which its stores enforce).
_METRICS_A_BATCH, _PARAMS_A_BATCH, _TAGS_A_BATCH = 1000, 100, 100
_DIGEST_LENGTH = 36


def search(client: MlflowClient, experiments: Sequence[str], filter_string: str) -> list[Run]:
    """The runs of `experiments` that `filter_string` finds, all pages of them, newest first."""
    runs: list[Run] = []
    token = None
    while experiments:
        page = client.search_runs(experiments, filter_string, order_by=["start_time DESC"], page_token=token)
        runs.extend(page)
        if not (token := page.token):
            break
    return runs


def all_experiments(client: MlflowClient) -> list[str]:
    return [experiment.experiment_id for experiment in client.search_experiments()]


def experiment_of(client: MlflowClient, dataset: str, artifacts: Path) -> str:
    """The id of the data set's experiment, made where it is missing."""
    if experiment := client.get_experiment_by_name(dataset):
        return str(experiment.experiment_id)
    return str(client.create_experiment(dataset, artifact_location=(artifacts / slug(dataset)).as_uri()))


def data_input(dataset: str, fingerprint: str, profile: Mapping[str, str | int]) -> DatasetInput:
    """The data set as MLflow's pages link runs and models to it: its name, and its fingerprint as digest."""
    source = json.dumps({"tags": {"fingerprint": fingerprint}})
    data = Dataset(dataset, fingerprint[:_DIGEST_LENGTH], "code", source, profile=json.dumps(profile))
    return DatasetInput(data, [InputTag("mlflow.data.context", "evaluation")])


def log_points(
    client: MlflowClient,
    run_id: str,
    points: Iterable[tuple[str, float, int]],
    *,
    model_id: str | None = None,
    data: DatasetInput | None = None,
) -> None:
    """Log (metric, value, step), those that are finite; on the model and the data set too where they are given."""
    at = now()
    where = (data.dataset.name, data.dataset.digest) if data else (None, None)
    metrics = [Metric(name, value, at, step, model_id, *where) for name, value, step in points if math.isfinite(value)]
    for start in range(0, len(metrics), _METRICS_A_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_BATCH])


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, object]) -> None:
    entries = [Param(key, str(value)) for key, value in params.items()]
    for start in range(0, len(entries), _PARAMS_A_BATCH):
        client.log_batch(run_id, params=entries[start : start + _PARAMS_A_BATCH])


def log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    entries = [RunTag(key, value) for key, value in tags.items()]
    for start in range(0, len(entries), _TAGS_A_BATCH):
        client.log_batch(run_id, tags=entries[start : start + _TAGS_A_BATCH])


def log_per_query(client: MlflowClient, run_id: str, frames: Mapping[str, pl.DataFrame]) -> None:
    """Store each split's figures a query as Parquet."""
    with tempfile.TemporaryDirectory() as folder:
        for split, figures in frames.items():
            figures.write_parquet(Path(folder, f"{slug(split)}.parquet"))
        client.log_artifacts(run_id, folder, PER_QUERY)


def log_model(
    client: MlflowClient, run: Run, *, name: str, key: str, params: Mapping[str, object], ranker: Path | None
) -> str:
    """Store the model of a system as an output of `run` and return its id; a tag keeps the checksum of its files."""
    run_id = run.info.run_id
    model: LoggedModel = client.create_logged_model(
        run.info.experiment_id,
        name=re.sub(r'[/:.%"\']', "-", name),  # the characters that MLflow takes in no model's name
        source_run_id=run_id,
        tags={"cascade.key": key},
        params={key: str(value) for key, value in params.items()},
        model_type="ranker",
    )
    client.set_tag(run_id, "cascade.model_id", model.model_id)
    with tempfile.TemporaryDirectory() as folder:
        checksum = save_model(name, ranker, model, run_id, Path(folder, "model"))
        client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
    client.set_logged_model_tags(model.model_id, {FILES_TAG: checksum})
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return str(model.model_id)


def curve_points(curve: pl.DataFrame | None) -> Iterator[tuple[str, float, int]]:
    """What training logged (`step` and a column a metric) as points, its gaps left out."""
    if curve is None:
        return
    for name in curve.drop("step").columns:
        # MLflow refuses the `@` of LightGBM's metric names.
        points = curve.select("step", name).drop_nulls().iter_rows()
        yield from ((f"curve.{name.replace('@', '_')}", value, step) for step, value in points)


def now() -> int:
    """Milliseconds since the epoch, as MLflow counts."""
    return time.time_ns() // 1_000_000


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "data"
