"""`cascade tune`: search a ranker's settings by cross-validation."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pipeline import jobs
from pipeline.durable import make_folder, write_json
from pipeline.terminal import AsJson, Home, out, print_json, progress

if TYPE_CHECKING:
    from pipeline.tune import Tuned


def tune(
    train: Annotated[list[Path], typer.Option(help="LETOR files of the train split; repeats.")],
    ranker: Annotated[str, typer.Option(help="Whose settings to search, such as lambdamart or ranknet+attention.")],
    valid: Annotated[
        list[Path] | None, typer.Option(help="LETOR files to stop training on; without it every fold cuts its own.")
    ] = None,
    trials: Annotated[int, typer.Option(help="Trials that the study is to have, earlier ones included.")] = 50,
    folds: Annotated[int, typer.Option(help="Folds of the by-query cross-validation.")] = 5,
    timeout: Annotated[float | None, typer.Option(help="Seconds; the same command goes on from there.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    metric: Annotated[str, typer.Option(help="What is maximised.")] = "ndcg_exp_cut_10",
    blank: Annotated[str, typer.Option(help="What a query with nothing relevant counts: zero, one or skip.")] = "one",
    name: Annotated[
        str | None, typer.Option(help="Of the study.", show_default="made of the ranker and its data")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the best settings here too, for `cascade ltr --settings`.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Search a ranker's settings by cross-validation; stopped at any moment, the same command goes on."""
    from pipeline.tune_job import tune_files

    policy = jobs.blank_policy(blank)
    folder = (home or jobs.default_home()).resolve()
    if out_file is not None:
        make_folder(out_file.resolve().parent)  # found out before the search rather than after it
    with progress() as show:
        found = tune_files(
            ranker,
            train,
            valid or [],
            home=folder,
            trials=trials,
            folds=folds,
            timeout=timeout,
            seed=seed,
            metric=metric,
            blank=policy,
            name=name,
            progress=show,
        )
    if out_file is not None:
        write_json(out_file, found.as_settings())
    if as_json:
        print_json(found.as_json())
        return
    blank = f"{found.blank_queries:,} with nothing relevant (blank: {found.blank})"
    judged = f"{found.metric} over {found.folds} folds of {found.queries:,} queries, {blank}"
    out.print(f"{found.study}: {judged}", highlight=False, soft_wrap=True)
    out.print(_table(found))
    default = found.trials[0].value or 0.0
    counts = ", ".join(f"{found.count(state)} {state}" for state in ("complete", "pruned", "failed"))
    out.print(
        f"best of {len(found.trials)} trials ({counts}): {found.best.value:.4f}, as it is {default:.4f}; "
        "it was chosen by this figure, which is therefore optimistic",
        highlight=False,
        soft_wrap=True,
    )
    kept = out_file or found.settings_file
    out.print(f"settings: {kept}; try: cascade ltr --settings {kept} …", highlight=False, soft_wrap=True)


def _table(found: "Tuned") -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("setting")
    for column in ("best", "as it is", "importance"):
        table.add_column(column, justify="right")
    for setting, value in found.best.settings.items():
        share = found.importance.get(setting)
        shown = "–" if share is None else f"{share:.2f}"
        table.add_row(setting, _short(value), _short(found.trials[0].settings[setting]), shown)
    return table


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
