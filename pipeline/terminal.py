"""What the commands share of the terminal: consoles, progress bars, JSON, and the options that most of them take."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

out = Console(soft_wrap=False)
err = Console(stderr=True)
WIDE = 110
"""Columns of a terminal that shows every figure; a narrower one shows those that decide."""

Home = Annotated[
    Path | None,
    typer.Option("--home", help="Folder that holds all state.", envvar="CASCADE_HOME", show_default=".cascade"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


class Lines(RichHandler):
    """Warnings as single lines on stderr, above any progress bar, each said once."""

    def __init__(self) -> None:
        super().__init__(console=err, show_time=False, show_path=False, show_level=True, markup=False, highlighter=None)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() not in self._said:
            self._said.add(record.getMessage())
            super().emit(record)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on stderr, one a stage; none where stderr is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield show


def print_json(value: Any) -> None:
    """One line of strict JSON on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
