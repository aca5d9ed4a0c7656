"""The model registry of a home: one registered model a data-set fingerprint, whose aliases say who serves.

    champion     the system that serves
    challenger   the one put forward last that did not replace it
    previous     the champion before, which a rollback returns to

The caller holds the database's lock (`pipeline.tracking`).
"""

import tempfile
from dataclasses import dataclass

import polars as pl
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from pipeline.mlflow_runs import PER_QUERY, slug
from pipeline.promotion import Promotion, judge
from retrieval.errors import CascadeError, InputError
from retrieval.metrics import Blank


@dataclass(frozen=True)
class Rollback:
    """A registered model's champion after a rollback, and the one that it was taken from; their bundles, if any."""

    model: str
    champion: str
    version: str
    bundle: str | None
    before: str
    before_version: str
    before_bundle: str | None


class Registry:
    """What the home's registry holds, and the only place that moves its aliases."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def put_forward(
        self, run: Run, *, dataset: str, fingerprint: str, blank: Blank, metric: str = "ndcg_cut_10"
    ) -> Promotion:
        """Put the system of `run` forward as champion of the data-set fingerprint.

        The first is champion; a later one replaces it when `pipeline.promotion.judge` finds it better on the VALIDATION
        queries, else it is the challenger. Test figures decide nothing.
        """
        model, name = model_name(dataset, fingerprint), run.info.run_name
        by_key, by_alias = self.versions(model)
        mine = by_key.get(run.data.tags["cascade.key"]) or self._register(model, dataset, fingerprint, run)
        champion = by_alias.get("champion")
        label, number = f"{name} (version {mine.version})", str(mine.version)
        if champion is None:
            self._alias(model, "champion", mine)
            reason = f"{label} is the first champion of {dataset}"
            return Promotion(name, "champion", model, number, None, None, None, reason)
        reigning = champion.tags["cascade.system"]
        if champion.version == mine.version:
            reason = f"{label} is the champion already"
            return Promotion(reigning, "unchanged", model, number, reigning, None, None, reason)
        verdict = judge(self._validation(mine.run_id), self._validation(champion.run_id), blank, metric)
        figures = (verdict.p_value, verdict.difference)
        other = f"{reigning} (version {champion.version})"
        if not verdict.better:
            self._alias(model, "challenger", mine)
            reason = f"{label} does not replace {other}: {verdict.words}"
            return Promotion(reigning, "challenger", model, number, reigning, *figures, reason)
        self._replace(model, champion, mine, by_alias)
        reason = f"{label} replaces {other}: {verdict.words}"
        return Promotion(name, "champion", model, number, reigning, *figures, reason)

    def plan_rollback(self, name: str) -> Rollback:
        """What `roll_back` would do to the registered model of that name, or of the data set of that name.

        Raises InputError for a name that is none or is several's, and where there is no previous champion.
        """
        model = self.model_called(name)
        _, by_alias = self.versions(model)
        champion, previous = by_alias.get("champion"), by_alias.get("previous")
        if champion is None or previous is None or previous.version == champion.version:
            raise InputError(f"{model}: has no previous champion to go back to")
        return _rollback(model, previous, champion)

    def roll_back(self, name: str) -> Rollback:
        """Exchange champion and previous; raises InputError as `plan_rollback` does. Twice is as if never."""
        plan = self.plan_rollback(name)
        self._exchange(plan)
        return plan

    def follow_bundle(self, bundle: str, dataset_fingerprint: str, system_key: str) -> Rollback | None:
        """Make the system that `bundle` serves champion of its data set, the champion `previous`.

        None where the registry does not know the system (it was never tracked), or has it as champion already.
        """
        for model in self._client.search_registered_models(f"tags.fingerprint = '{dataset_fingerprint}'"):
            by_key, by_alias = self.versions(model.name)
            tagged = [version for version in by_key.values() if version.tags.get("bundle") == bundle]
            served = by_key.get(system_key) or next(iter(tagged), None)
            champion = by_alias.get("champion")
            if served and champion and served.version != champion.version:
                plan = _rollback(model.name, served, champion)
                self._exchange(plan)
                return plan
        return None

    def _exchange(self, plan: Rollback) -> None:
        # A challenger stays what it is, so that a second rollback undoes the first.
        self._client.set_registered_model_alias(plan.model, "previous", plan.before_version)
        self._client.set_registered_model_alias(plan.model, "champion", plan.version)

    def set_bundle(self, model: str, version: str, bundle: str) -> None:
        """Remember that `bundle` serves this version."""
        self._client.set_model_version_tag(model, version, "bundle", bundle)

    def champion_bundle(self, fingerprint: str) -> str | None:
        """The bundle of the champion of a data-set fingerprint; None where there is no champion or it has none."""
        models = self._client.search_registered_models(f"tags.fingerprint = '{fingerprint}'")
        champions = [self.versions(model.name)[1].get("champion") for model in models]
        return next((champion.tags.get("bundle") for champion in champions if champion), None)

    def model_called(self, name: str) -> str:
        """The registered model of that name, or the one of the data set of that name."""
        models = self._client.search_registered_models()
        called = [m.name for m in models if m.name == name] or [m.name for m in models if m.tags.get("dataset") == name]
        if len(called) == 1:
            return str(called[0])
        known = ", ".join(called or sorted(m.name for m in models)) or "none"
        what = "is the name of several data sets" if called else "no such registered model"
        raise InputError(f"{name}: {what}; name one of: {known}")

    def versions(self, model: str) -> tuple[dict[str, ModelVersion], dict[str, ModelVersion]]:
        """The versions of `model` by system key, and by alias; both empty where it is not registered."""
        found = self._client.search_registered_models(f"name = '{model}'")
        versions = {v.version: v for v in self._client.search_model_versions(f"name = '{model}'")}
        aliases = found[0].aliases if found else {}
        by_alias = {alias: versions[number] for alias, number in aliases.items() if number in versions}
        return {v.tags["cascade.key"]: v for v in versions.values() if "cascade.key" in v.tags}, by_alias

    def _replace(
        self, model: str, champion: ModelVersion, heir: ModelVersion, by_alias: dict[str, ModelVersion]
    ) -> None:
        self._alias(model, "previous", champion)
        self._alias(model, "champion", heir)
        if (challenger := by_alias.get("challenger")) and challenger.version == heir.version:
            self._client.delete_registered_model_alias(model, "challenger")

    def _alias(self, model: str, alias: str, version: ModelVersion) -> None:
        self._client.set_registered_model_alias(model, alias, version.version)

    def _register(self, model: str, dataset: str, fingerprint: str, run: Run) -> ModelVersion:
        if "cascade.model_id" not in run.data.tags:
            raise InputError(f"{run.info.run_name}: was tracked without a model, so it cannot be champion")
        if not self._client.search_registered_models(f"name = '{model}'"):
            self._client.create_registered_model(model, {"fingerprint": fingerprint, "dataset": dataset})
        tags = {"cascade.key": run.data.tags["cascade.key"], "cascade.system": run.info.run_name}
        logged = self._client.get_logged_model(run.data.tags["cascade.model_id"])
        # A `models:/` source would be looked up in MLflow's global store, not in this one.
        return self._client.create_model_version(
            model, logged.artifact_location, run.info.run_id, tags, model_id=logged.model_id, await_creation_for=0
        )

    def _validation(self, run_id: str) -> pl.DataFrame | None:
        return read_per_query(self._client, run_id, "valid")


def model_name(dataset: str, fingerprint: str) -> str:
    """What the registered model of a data-set fingerprint is called."""
    return f"cascade-{slug(dataset)}-{fingerprint[:12]}"


def read_per_query(client: MlflowClient, run_id: str, split: str) -> pl.DataFrame | None:
    """The figures a query that a run stored for `split`; None where it has none. Raises CascadeError if damaged."""
    listed = {file.path for file in client.list_artifacts(run_id, PER_QUERY)}
    if (path := f"{PER_QUERY}/{slug(split)}.parquet") not in listed:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            return pl.read_parquet(client.download_artifacts(run_id, path, folder))
        except pl.exceptions.PolarsError as error:
            message = f"run {run_id}: its {path} is damaged; delete the run in MLflow and run again"
            raise CascadeError(message) from error


def _rollback(model: str, champion: ModelVersion, before: ModelVersion) -> Rollback:
    return Rollback(
        model=model,
        champion=champion.tags["cascade.system"],
        version=str(champion.version),
        bundle=champion.tags.get("bundle"),
        before=before.tags["cascade.system"],
        before_version=str(before.version),
        before_bundle=before.tags.get("bundle"),
    )
