"""`cascade parity`: replay a request log through the offline path."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

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
        table.add_column("feature", no_wrap=True)
        for name in ("requests", "documents", "missing", "largest"):
            table.add_column(name, justify="right", no_wrap=True)
        for each in found.differences:
            counts = (each.requests, each.documents, each.missing)
            table.add_row(
                each.what, *(f"{count:,}" for count in counts), "–" if each.largest is None else _number(each.largest)
            )
        out.print(table)
        for each in found.differences:
            numbers = f"served {_number(each.served)}, offline {_number(each.offline)}"
            _say(f"{each.what}: {numbers}, for {each.docid} of {each.query[:60]!r} (request {each.request})")
    if found.reordered is not None:
        it = found.reordered
        ranks = f"rank {it.rank} was {it.served}, offline it is {it.offline}"
        _say(f"order: {it.requests:,} requests differ; of {it.query[:60]!r} {ranks} (request {it.request})")
    if found.equal:
        within = f" within {found.tolerance:g}" if found.tolerance else " bit by bit"
        _say(f"the same{within}: values, scores and order of {what}")
    for note in found.notes:
        err.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _say(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:.6g}"
