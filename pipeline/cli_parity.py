"""`cascade parity`: replay a request log through the offline path."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pipeline import jobs
from pipeline.terminal import AsJson, Home, err, out, print_json

if TYPE_CHECKING:
    from pipeline.parity_report import Parity

DIFFERENT = 1
"""The exit code for a log whose replay differs; input that cannot be replayed is 2, as everywhere."""


def parity(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="What `cascade search --log LOG` wrote.")],
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle that served, where it is no longer in the home folder.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Numbers this close count as the same; 0 compares bits.")] = 0.0,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Replay logged requests through the path that training uses: same values, same scores, same order?"""
    from pipeline.parity import replay
    from pipeline.request_log import read_log

    folder = (home or jobs.default_home()).resolve()
    found = replay(read_log(log), home=folder, bundle=bundle, tolerance=tolerance)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)
    if not found.equal:
        raise typer.Exit(DIFFERENT)


def _print(found: "Parity") -> None:
    what = f"{found.requests:,} requests, {found.documents:,} documents, {len(found.features)} features"
    if found.differences:
        table = Table(title=f"served and offline, {what}", box=box.SIMPLE_HEAD)
        for name in ("feature", "requests", "documents", "missing", "largest", "served", "offline", "query", "docid"):
            table.add_column(
                name, justify="left" if name in ("feature", "query", "docid") else "right", overflow="fold"
            )
        for each in found.differences:
            counts = (each.requests, each.documents, each.missing)
            numbers = (_number(each.largest), _number(each.served), _number(each.offline))
            table.add_row(each.what, *map(str, counts), *numbers, Text(each.query[:60]), Text(each.docid))
        out.print(table)
    if found.reordered is not None:
        it = found.reordered
        out.print(
            f"order: {it.requests:,} requests differ; for {it.query[:60]!r} rank {it.rank} was {it.served}, "
            f"offline it is {it.offline}",
            markup=False,
            highlight=False,
        )
    if found.equal:
        within = f" within {found.tolerance:g}" if found.tolerance else " bit by bit"
        out.print(f"the same{within}: values, scores and order of {what}", highlight=False)
    for note in found.notes:
        err.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
