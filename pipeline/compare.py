"""What MLflow knows about a data set's systems, side by side, and which of them is champion."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from pipeline.compare_evaluations import Evaluated, evaluations, registered_keys
from pipeline.mlflow_database import DATABASE
from pipeline.results import p_text
from pipeline.tracking import Tracker
from retrieval.errors import InputError


@dataclass(frozen=True)
class Row:
    """A system's latest run, and the standing that its leaderboard gave it.

    difference, difference_ci95, p_value: against the baseline; None for the baseline itself.
    alias, version: of its version in the model registry (`champion`, `challenger`, `previous`); None without one.
    """

    name: str
    stage: str
    ndcg_cut_10: float
    ci95: tuple[float, float]
    baseline: str
    difference: float | None
    difference_ci95: tuple[float, float] | None
    p_value: float | None
    ms_per_query: float
    alias: str | None
    version: str | None
    run_id: str


@dataclass(frozen=True)
class Comparison:
    """The systems of one data-set fingerprint under its latest blank policy, best test NDCG first.

    champion: its name and version in the registry, None where nothing was put forward.
    """

    dataset: str
    fingerprint: str
    split: str
    blank: str
    queries: int
    champion: str | None
    rows: Sequence[Row]

    def as_json(self) -> dict[str, Any]:
        """The object that `cascade compare --json` prints for a data set."""
        return asdict(self)

    def table(self) -> Table:
        """For a terminal."""
        title = f"{self.dataset}, {self.split}: {self.queries:,} queries, blank queries: {self.blank}"
        baselines = ", ".join(sorted({row.baseline for row in self.rows}))
        caption = (
            f"difference to {baselines}; champion, chosen on validation queries: {self.champion or 'none'}; "
            f"data {self.fingerprint[:12]}"
        )
        table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, collapse_padding=True)
        table.add_column("system", no_wrap=True)
        for heading in ("nDCG@10", "95 %", "difference", "p", "ms/query"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("registry", no_wrap=True)
        for row in self.rows:
            table.add_row(*_cells(row), style="bold" if row.alias == "champion" else None)
        return table


def compare(home: Path, dataset: str | None = None) -> list[Comparison]:
    """Every data-set fingerprint that was run under `home`, newest first; only those of `dataset` where it is given.

    A system appears with its latest run; the champion, the challenger and the champion before also where other runs of
    the same name came after theirs. Writes nothing.

    Raises InputError where nothing was run yet (naming the command that does) and for an unknown data set.
    """
    return overview(home, dataset)[0]


def overview(home: Path, dataset: str | None = None) -> tuple[list[Comparison], list[Evaluated]]:
    """`compare`, and beside it what was evaluated under `home` (`cascade evaluate`, `cascade ltr`)."""
    if not (home / DATABASE).is_file():
        raise InputError(f"{home}: holds no runs yet; `cascade run DATA` makes some")
    tracker = Tracker(home)
    parents = [parent for parent in tracker.data_sets() if "cascade.state" in parent.data.tags]
    evaluated = evaluations(tracker)
    known = sorted({parent.data.tags["cascade.dataset"] for parent in parents} | {e.dataset for e in evaluated})
    if not known:
        raise InputError(f"{home}: holds no finished run yet; `cascade run DATA` makes one")
    if dataset is not None and dataset not in known:
        raise InputError(f"{home}: holds no run on {dataset!r}; it holds {', '.join(known)}")
    runs = [_comparison(tracker, p) for p in parents if dataset in (None, p.data.tags["cascade.dataset"])]
    return runs, [e for e in evaluated if dataset in (None, e.dataset)]


def ui_command(home: Path) -> str:
    """The command that opens MLflow's own pages on `home`; artifacts need no option, their paths are absolute."""
    return f"mlflow ui --backend-store-uri {shlex.quote(f'sqlite:///{home.resolve() / DATABASE}')}"


def _comparison(tracker: Tracker, parent: Any) -> Comparison:
    tags = parent.data.tags
    aliases = tracker.aliases(parent)
    registered = registered_keys(tracker, parent)
    rows, seen = [], set()
    runs = tracker.systems(parent, tags["cascade.blank"])
    for run in sorted(runs, key=lambda run: int(run.data.tags["cascade.judged"]), reverse=True):
        name, key = run.info.run_name, run.data.tags["cascade.key"]
        if name not in seen or key in registered:
            rows.append(_row(run, *registered.get(key, (None, None))))
        seen.add(name)
    champion = aliases.get("champion")
    return Comparison(
        dataset=tags["cascade.dataset"],
        fingerprint=tags["cascade.fingerprint"],
        split=tags["cascade.split"],
        blank=tags["cascade.blank"],
        queries=int(tags["cascade.queries"]),
        champion=champion and f"{champion.tags['cascade.system']} (version {champion.version})",
        rows=sorted(rows, key=lambda row: row.ndcg_cut_10, reverse=True),
    )


def _row(run: Any, alias: str | None, version: str | None) -> Row:
    figures: Mapping[str, float] = {name.removeprefix("test."): value for name, value in run.data.metrics.items()}
    baseline = run.data.tags["cascade.baseline"]
    versus = run.info.run_name != baseline and "difference" in figures
    return Row(
        name=run.info.run_name,
        stage=run.data.tags["cascade.stage"],
        ndcg_cut_10=figures["ndcg_cut_10"],
        ci95=(figures["ndcg_cut_10_low"], figures["ndcg_cut_10_high"]),
        baseline=baseline,
        difference=figures["difference"] if versus else None,
        difference_ci95=(figures["difference_low"], figures["difference_high"]) if versus else None,
        p_value=figures["p_value"] if versus else None,
        ms_per_query=figures["ms_per_query"],
        alias=alias,
        version=version,
        run_id=run.info.run_id,
    )


def _cells(row: Row) -> list[str]:
    low, high = row.ci95
    return [
        row.name,
        f"{row.ndcg_cut_10:.4f}",
        f"{low:.3f} {high:.3f}",
        "baseline" if row.difference is None else f"{row.difference:+.4f}",
        "" if row.p_value is None else p_text(row.p_value),
        f"{row.ms_per_query:.2f}",
        "" if row.alias is None else f"{row.alias} {row.version}",
    ]
