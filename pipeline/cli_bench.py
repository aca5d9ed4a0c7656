"""`cascade bench`: the benchmarks of the source checkout."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.terminal import AsJson, Home
from retrieval.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Benchmarks beside other libraries, from a source checkout.")
ROOT = Path(__file__).parent.parent


@app.callback()
def bench() -> None:
    """Benchmarks beside other libraries, from a source checkout."""


@app.command()
def ltr(
    quick: Annotated[bool, typer.Option("--quick", help="Two folds, one seed, the main rankers and rivals.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes, one thread each.", show_default="cores")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Rankers beside LightGBM, XGBoost and CatBoost on MQ2008's five folds."""
    if not (ROOT / "tests" / "bench" / "bench_ltr.py").is_file():
        raise InputError(
            "the benchmarks are part of the source: clone it and install with `pip install -e '.[cpu,dev]'`"
        )
    options = [*(["--quick"] if quick else []), *(["--json"] if as_json else [])]
    options += [] if jobs is None else ["--jobs", str(jobs)]
    options += [] if home is None else ["--home", str(home.resolve() / "bench")]
    done = subprocess.run([sys.executable, "-m", "tests.bench.bench_ltr", *options], cwd=ROOT, check=False)
    raise typer.Exit(done.returncode)
