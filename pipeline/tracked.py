"""Systems that were tracked before, found again by name or run, with the figures a query that they were judged by."""

import re
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline import mlflow_runs
from pipeline.comparable import Judged, judged_by
from pipeline.registry import read_per_query
from retrieval.errors import CascadeError, InputError


@dataclass(frozen=True)
class Tracked:
    """A system that was tracked before, its key and MLflow model, and the name and fingerprint of the data set that
    it was judged on."""

    judged: Judged
    key: str
    model_id: str | None
    dataset: str
    fingerprint: str


def find_tracked(client: MlflowClient, system: str, *, split: str, qrels: str | None) -> Tracked:
    """See `Tracker.tracked`."""
    by = "attributes.run_id" if re.fullmatch(r"[0-9a-f]{32}", system) else "attributes.run_name"
    finished = f"{by} = '{system.replace(chr(39), '')}' AND attributes.status = 'FINISHED'"
    found = mlflow_runs.search(client, mlflow_runs.all_experiments(client), finished)
    runs = [run for run in found if _compares(run)]
    if not runs:
        raise InputError(f"{system}: no such file, folder, model or tracked system; `cascade compare` lists those")
    tags = {run.info.run_id: run.data.tags for run in runs}
    good = [i for i, t in tags.items() if t["cascade.split"] == split and qrels in (None, t["cascade.qrels"])]
    if not good:
        splits = ", ".join(sorted({t["cascade.split"] for t in tags.values()}))
        if split in splits.split(", "):
            raise InputError(f"{system}: does not compare: its figures on {split!r} were judged by other qrels")
        raise InputError(f"{system}: does not compare: it was judged on the split {splits}, not on {split!r}")
    mine = tags[good[0]]
    figures = read_per_query(client, good[0], mine["cascade.per_query"])
    judged = None if figures is None else judged_by(mine, figures)
    if judged is None:
        raise CascadeError(f"run {good[0]}: lacks its figures a query; delete it in MLflow and run again")
    parent = client.get_run(mine["mlflow.parentRunId"]).data.tags
    data = parent.get("cascade.data") or parent["cascade.fingerprint"]
    return Tracked(judged, mine["cascade.key"], mine.get("cascade.model_id"), parent["cascade.dataset"], data)


def _compares(run: Run) -> bool:
    return {"cascade.split", "cascade.qrels", "cascade.per_query"} <= set(run.data.tags)
