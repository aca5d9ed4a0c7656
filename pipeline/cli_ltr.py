"""`cascade ltr`: train, compare and keep learning-to-rank models on LETOR files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import jobs
from pipeline.ltr_settings import BLENDED
from pipeline.terminal import AsJson, Home, out, print_json, progress
from retrieval.errors import InputError

if TYPE_CHECKING:
    from rankers.blend import BlendMethod


def ltr(
    train: Annotated[list[Path], typer.Option(help="LETOR or SVMLight files, gzip or plain; repeats.")],
    valid: Annotated[list[Path], typer.Option(help="Files to stop, blend and choose on; repeats.")],
    test: Annotated[list[Path], typer.Option(help="Files to judge on; repeats.")],
    ranker: Annotated[list[str], typer.Option(help="Names by comma; repeats. `cascade rankers` lists them.")],
    seeds: Annotated[int, typer.Option(help="Fits of each ranker, with the seeds 0, 1, …")] = 3,
    settings: Annotated[
        list[Path] | None, typer.Option(help="A ranker's settings, as `cascade tune --out` writes them; repeats.")
    ] = None,
    blend: Annotated[str, typer.Option(help="What the ranker `blend` is made of, by comma.")] = ",".join(BLENDED),
    blend_method: Annotated[str, typer.Option(help="How: rank, stack, or best on validation.")] = "rank",
    name: Annotated[
        str | None, typer.Option(help="The data set's name in MLflow.", show_default="the test file's folder")
    ] = None,
    blank: Annotated[
        str, typer.Option(help="What a query with nothing relevant counts in tests: zero, one or skip.")
    ] = "one",
    pairs: Annotated[bool, typer.Option("--pairs", help="Every pair of rankers, however many there are.")] = False,
    track: Annotated[bool, typer.Option(help="Keep everything in MLflow.")] = True,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Train rankers on LETOR files, judge them in every convention, test every pair, keep it all in MLflow."""
    policy = jobs.blank_policy(blank)
    from pipeline.ltr_settings import read_settings

    given = dict(read_settings(path) for path in settings or [])
    from pipeline import evaluation_tables
    from pipeline.ltr import Files
    from pipeline.ltr import ltr as train_rankers

    with progress() as show:
        result = train_rankers(
            Files(train, valid, test),
            ranker,
            home=(home or jobs.default_home()).resolve(),
            seeds=seeds,
            settings=given,
            blended=[blend],
            blend_method=_blend_method(blend_method),
            dataset=name,
            blank=policy,
            track=track,
            progress=show,
        )
    if as_json:
        print_json(result.as_json())
        return
    out.print(result.table())
    if result.evaluation.pairs:
        out.print(evaluation_tables.pairs_table(result.evaluation, every=pairs))
    if result.promotion:
        out.print(f"{result.promotion.champion} is champion: {result.promotion.reason}", highlight=False)


def _blend_method(name: str) -> "BlendMethod":
    match name:
        case "rank" | "stack" | "best":
            return name
    raise InputError(f"unknown way to blend {name!r}; known: rank, stack, best")


def rankers() -> None:
    """List the rankers that can be trained."""
    from rich.table import Table

    from rankers.catalogue import RANKERS

    table = Table("ranker", "family", "what it minimises")
    for name, entry in RANKERS.items():
        table.add_row(name, entry.family, entry.about)
    out.print(table)
