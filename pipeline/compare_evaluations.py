"""What the evaluations in MLflow say of a data set: each system's latest figures, side by side where they compare."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow.entities import Run
from rich import box
from rich.table import Table

from pipeline import comparable
from pipeline.mlflow_runs import slug
from pipeline.tracking import Tracker


@dataclass(frozen=True)
class EvaluatedRow:
    """A system's latest figures under one metric and blank policy.

    label: `A`, `B`, … where systems ranked different candidates, `1`, `2`, … where they read different features.
    alias, version: of its version in the registry, None without one.
    """

    name: str
    label: str
    mean: float
    ci95: tuple[float, float]
    candidates: str | None
    features: str | None
    alias: str | None
    version: str | None
    run_id: str


@dataclass(frozen=True)
class Evaluated:
    """The systems evaluated on one data set, split and qrels by one metric under one blank policy, best first."""

    dataset: str
    fingerprint: str
    split: str
    metric: str
    blank: str
    queries: int
    rows: Sequence[EvaluatedRow]

    def as_json(self) -> dict[str, Any]:
        """The object that `cascade compare --json` prints for it."""
        return asdict(self)

    def table(self) -> Table:
        """For a terminal."""
        title = f"evaluated on {self.dataset}, {self.split}: {self.queries:,} queries, blank queries: {self.blank}"
        labels = "".join(row.label for row in self.rows)
        said = [f"data {self.fingerprint[:12]}"]
        if labels.strip("0123456789"):
            said.append("A, B, …: different candidates")
        if any(letter.isdigit() for letter in labels):
            said.append("1, 2, …: different features")
        table = Table(title=title, caption="; ".join(said), box=box.SIMPLE_HEAD, collapse_padding=True)
        table.add_column("system", overflow="fold", min_width=12)
        for heading in (self.metric, "95 %"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("registry", no_wrap=True)
        for row in self.rows:
            shown = f"{row.name} ({row.label})" if row.label else row.name
            registry = "" if row.alias is None else f"{row.alias} {row.version}"
            interval = f"{row.ci95[0]:.3f} {row.ci95[1]:.3f}"
            table.add_row(
                shown, f"{row.mean:.4f}", interval, registry, style="bold" if row.alias == "champion" else None
            )
        return table


def evaluations(tracker: Tracker, dataset: str | None = None) -> list[Evaluated]:
    """What was evaluated, one table for all evaluations whose figures compare, the newest first."""
    parents = [p for p in tracker.evaluations() if dataset in (None, p.data.tags["cascade.dataset"])]
    alike: dict[tuple[str, ...], list[Run]] = {}
    for parent in parents:
        tags = parent.data.tags
        same = ("cascade.dataset", "cascade.data", "cascade.qrels", "cascade.split", "cascade.metric", "cascade.blank")
        alike.setdefault(tuple(tags[tag] for tag in same), []).append(parent)
    return [_evaluated(tracker, group) for group in alike.values()]


def _evaluated(tracker: Tracker, parents: Sequence[Run]) -> Evaluated:
    newest = parents[0].data.tags
    latest: dict[str, Run] = {}
    for parent in parents:
        for run in tracker.nested(parent):
            latest.setdefault(run.info.run_name, run)
    judged = {}
    for name, run in latest.items():
        judged[name] = (run.data.tags.get("cascade.candidates"), run.data.tags.get("cascade.features"))
    labels = comparable.labels_of(judged)
    registered = registered_keys(tracker, parents[0])
    rows = [_row(run, labels[name], registered, newest) for name, run in latest.items()]
    return Evaluated(
        dataset=newest["cascade.dataset"],
        fingerprint=newest["cascade.data"],
        split=newest["cascade.split"],
        metric=newest["cascade.metric"],
        blank=newest["cascade.blank"],
        queries=int(newest["cascade.queries"]),
        rows=sorted(rows, key=lambda row: -row.mean),
    )


def registered_keys(tracker: Tracker, parent: Run) -> dict[str, tuple[str, str]]:
    """System key → (alias, version) in the registry of the parent's data set.

    One version may hold several aliases: the champion's counts.
    """
    aliases = tracker.aliases(parent)
    ordered = sorted(aliases, key=lambda alias: alias == "champion")
    return {aliases[alias].tags["cascade.key"]: (alias, str(aliases[alias].version)) for alias in ordered}


def _row(
    run: Run, label: str, registered: Mapping[str, tuple[str, str]], evaluation: Mapping[str, str]
) -> EvaluatedRow:
    tags, figures = run.data.tags, run.data.metrics
    metric = f"{slug(evaluation['cascade.split'])}.{evaluation['cascade.metric']}"
    alias, version = registered.get(tags["cascade.key"], (None, None))
    return EvaluatedRow(
        name=run.info.run_name,
        label=label,
        mean=figures[f"{metric}.{evaluation['cascade.blank']}"],
        ci95=(figures[f"{metric}.low"], figures[f"{metric}.high"]),
        candidates=tags.get("cascade.candidates"),
        features=tags.get("cascade.features"),
        alias=alias,
        version=version,
        run_id=run.info.run_id,
    )
