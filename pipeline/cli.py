"""The command line: every command is a thin face on a job of `pipeline.jobs`."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pipeline import jobs
from pipeline.cli_bench import app as bench
from pipeline.cli_clicks import app as clicks
from pipeline.cli_evaluate import evaluate
from pipeline.cli_ltr import ltr, rankers
from pipeline.cli_parity import parity
from pipeline.cli_tune import tune
from pipeline.config import RANKERS, Settings
from pipeline.results import Leaderboard, p_text
from pipeline.terminal import WIDE, AsJson, Home, Lines, err, out, print_json, progress
from retrieval.checkpoint import DEFAULT_ENCODER
from retrieval.errors import CascadeError, InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Run a command. Refused input is one line on stderr and exit code 2; nothing prints a stack trace at a user."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[Lines()])
    try:
        app(standalone_mode=True)
    except CascadeError as error:
        err.print(Text.assemble(("error: ", "bold red"), " ".join(str(error).split())), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("stopped; finished stages are kept, and the same command goes on from there")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe (head, say) has left: that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _mapping(pairs: str | None) -> dict[str, str] | None:
    """`docid=id,text=body` as a mapping."""
    if pairs is None:
        return None
    parts = [pair.partition("=") for pair in pairs.split(",")]
    wrong = [name for name, equals, theirs in parts if not (name and equals and theirs)]
    if wrong:
        raise InputError(f"--columns: {wrong[0]!r} is no OURS=THEIRS pair, such as docid=id,text=body")
    return {name.strip(): theirs.strip() for name, _, theirs in parts}


@app.command()
def run(
    data: Annotated[str, typer.Argument(help="`pydocs`, a BEIR folder, a corpus file, or irds:ID.")],
    home: Home = None,
    limit: Annotated[int | None, typer.Option(help="Keep at most so many documents, for a quick look.")] = None,
    packages: Annotated[bool, typer.Option(help="pydocs: add the installed packages.")] = False,
    queries: Annotated[Path | None, typer.Option(help="Queries of a corpus file.")] = None,
    qrels: Annotated[
        str | None, typer.Option(help="Judgements of a corpus file: FILE or train=F,valid=F,test=F.")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Columns of a corpus file: docid=id,title=t,text=body.")] = None,
    encoder: Annotated[str, typer.Option(help="Packaged name, local folder or hub id.")] = DEFAULT_ENCODER,
    language: Annotated[str, typer.Option(help="Snowball language of the analysis, or none.")] = "english",
    depth: Annotated[int, typer.Option(help="Documents a retrieval stage returns a query.")] = 1000,
    candidates: Annotated[int, typer.Option(help="Documents that the rankers see a query.")] = 100,
    rankers: Annotated[str, typer.Option(help="Learned rankers to train, by comma.")] = ",".join(RANKERS),
    folds: Annotated[int, typer.Option(help="Cross-validate by query where there is no train split.")] = 0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    blank: Annotated[str, typer.Option(help="What a query with nothing relevant counts: zero, one or skip.")] = "zero",
    as_json: AsJson = False,
) -> None:
    """Run the main job: retrieve, rank, judge, track in MLflow, publish the champion as a search bundle."""
    settings = Settings.of(
        {
            "encoder": encoder,
            "language": language,
            "depth": depth,
            "candidates": candidates,
            "rankers": tuple(name.strip() for name in rankers.split(",") if name.strip()),
            "folds": folds,
            "seed": seed,
        }
    )
    with progress() as show:
        result = jobs.run(
            data,
            home=home,
            settings=settings,
            limit=limit,
            packages=packages,
            columns=_mapping(columns),
            queries=queries,
            qrels=qrels,
            blank=jobs.blank_policy(blank),
            progress=show,
        )
    if as_json:
        print_json({**result.leaderboard.as_json(), "bundle": result.bundle.name, "promotion": _promotion(result)})
        return
    out.print(_leaderboard_table(result.leaderboard))
    if result.promotion:
        out.print(Text.assemble((result.promotion.champion, "bold"), f" is champion: {result.promotion.reason}"))
    out.print(f'published {result.bundle.name}; try: cascade search "…"   and: cascade compare', highlight=False)


def _promotion(result: jobs.RunResult) -> dict[str, Any] | None:
    p = result.promotion
    return None if p is None else {"status": p.status, "champion": p.champion, "reason": p.reason}


def _leaderboard_table(board: Leaderboard) -> Table:
    blank = {"zero": "0", "one": "1", "skip": "nothing"}[board.blank]
    title = f"{board.dataset}, {board.split}: {board.queries:,} queries"
    chosen = ", the best earlier stage on validation" if "valid" in board.systems[0].per_query else ""
    caption = (
        f"difference to {board.baseline}{chosen}, with its 95 % interval; "
        f"p: paired randomisation, Holm-corrected; a query with nothing relevant counts {blank}"
    )
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, collapse_padding=True)
    wide = out.width >= WIDE
    table.add_column("system", no_wrap=True)
    if wide:
        table.add_column("stage", no_wrap=True)
    extra = ("nDCG@10 exp", "MRR", "R@100") if wide else ()
    for heading in ("nDCG@10", "95 %", "difference", "p", *extra, "ms/query"):
        table.add_column(heading, justify="right", no_wrap=True)
    for system in board.systems:
        m = system.metrics
        versus = board.versus.get(system.name)
        cells = [system.name, *([system.stage] if wide else []), f"{m['ndcg_cut_10']:.4f}", _interval(system.ci95)]
        if versus is None:
            cells += ["", ""]
        else:
            cells += [f"{versus.difference:+.3f} ({_interval(versus.ci95, sign='+')})", p_text(versus.p_value)]
        cells += [f"{m['ndcg_exp_cut_10']:.4f}", f"{m['recip_rank']:.4f}", f"{m['recall_100']:.3f}"] if wide else []
        cells += [f"{system.ms_per_query:.1f}"]
        table.add_row(*cells, style="bold" if system.name == board.selected else None)
    return table


def _interval(interval: tuple[float, float], sign: str = "") -> str:
    return f"{interval[0]:{sign}.3f} {interval[1]:{sign}.3f}"


@app.command()
def search(
    query: Annotated[str | None, typer.Argument(help="One query.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="A file of queries instead: jsonl, csv, tsv, parquet or txt.")
    ] = None,
    k: Annotated[int, typer.Option(help="Documents to return.")] = 10,
    explain: Annotated[bool, typer.Option(help="What each feature adds to the score.")] = False,
    log: Annotated[Path | None, typer.Option(help="Folder to keep the requests in, for `cascade parity`.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Search the current bundle."""
    if (query is None) == (queries is None):
        raise InputError("search: give one query, or --queries FILE")
    if queries is not None:
        from retrieval.tables import read_queries

        asked = read_queries(queries)
    else:
        asked = pl.DataFrame({"qid": ["1"], "query": [query or ""]})
    found = jobs.search(asked, home=home, k=k, explain=explain, log=log)
    if as_json:
        print_json({"queries": [_answer(row, found) for row in asked.iter_rows(named=True)]})
        return
    for row in asked.iter_rows(named=True):
        out.print(_results_table(row["query"], found.filter(pl.col("qid") == row["qid"]), explain))


def _answer(query: dict[str, Any], found: pl.DataFrame) -> dict[str, Any]:
    results = found.filter(pl.col("qid") == query["qid"]).drop("qid")
    return {"qid": query["qid"], "query": query["query"], "results": results.to_dicts()}


def _results_table(query: str, found: pl.DataFrame, explain: bool) -> Table:
    table = Table(title=Text(query), title_justify="left", expand=True)
    table.add_column("#", justify="right")
    table.add_column("document", overflow="fold", ratio=3)
    for stage in ("score", "fused", "bm25", "dense"):
        table.add_column(stage, justify="right", no_wrap=True)
    if explain:
        table.add_column("why", overflow="fold", ratio=3)
    for row in found.iter_rows(named=True):
        snippet = " ".join(row["text"].split())[:160]
        cells: list[Any] = [
            str(row["rank"]),
            Text.assemble((row["docid"], "bold"), f"  {row['title']}\n", (snippet, "dim")),
        ]
        cells += ["–" if row[stage] is None else f"{row[stage]:.3f}" for stage in ("score", "fused", "bm25", "dense")]
        if explain:
            top = row["contributions"][:5]
            cells.append("\n".join(f"{c['contribution']:+.3f} {c['feature']} = {c['value']:.3g}" for c in top))
        table.add_row(*cells)
    return table


@app.command()
def score(
    run_file: Annotated[Path, typer.Argument(metavar="RUN", help="TREC run.")],
    qrels: Annotated[Path, typer.Argument(help="TREC or BEIR judgements.")],
    metrics: Annotated[str | None, typer.Option(help="By comma, such as ndcg_cut_10,map,recall_100.")] = None,
    against: Annotated[Path | None, typer.Option(help="A second run to compare with, query by query.")] = None,
    blank: Annotated[str, typer.Option(help="What a query with nothing relevant counts: zero, one or skip.")] = "zero",
    per_query: Annotated[bool, typer.Option(help="Every query's figures too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge any TREC run offline."""
    from pipeline.score import DEFAULT, render

    names = [name.strip() for name in metrics.split(",") if name.strip()] if metrics is not None else list(DEFAULT)
    scores = jobs.score(run_file, qrels, metrics=names, against=against, blank=jobs.blank_policy(blank))
    if as_json:
        rows = {"per_query": scores.per_query.to_dicts()} if per_query else {}
        print_json({**scores.as_json(), **rows})
        return
    out.print(render(scores))
    if per_query:
        table = Table("qid", *names)
        for row in scores.per_query.iter_rows():
            table.add_row(row[0], *("–" if value is None else f"{value:.4f}" for value in row[1:]))
        out.print(table)


@app.command()
def compare(
    dataset: Annotated[str | None, typer.Argument(help="A data set's name; all of them without it.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare the tracked systems, from MLflow, and say how to open its UI."""
    from pipeline.compare import overview, ui_command

    folder = (home or jobs.default_home()).resolve()
    comparisons, evaluated = overview(folder, dataset)
    if as_json:
        runs = [comparison.as_json() for comparison in comparisons]
        print_json({"datasets": runs, "evaluations": [shown.as_json() for shown in evaluated]})
        return
    for table in (*(comparison.table() for comparison in comparisons), *(shown.table() for shown in evaluated)):
        out.print(table)
    out.print(f"to look at runs, curves and plots:\n  {ui_command(folder)}", highlight=False, soft_wrap=True)


@app.command()
def rollback(
    model: Annotated[
        str | None, typer.Option(help="Only this registered model, or data set: its champion before becomes champion.")
    ] = None,
    home: Home = None,
) -> None:
    """Make the bundle before the current one current again, and its system champion in the registry."""
    from pipeline.rollback import roll_back

    for line in roll_back((home or jobs.default_home()).resolve(), model).lines():
        out.print(line, highlight=False)


@app.command()
def features() -> None:
    """List the ranking features."""
    from features.registry import describe

    table = Table("feature", "what it is")
    for name, about in describe():
        table.add_row(name, about)
    out.print(table)


app.command()(evaluate)
app.command()(ltr)
app.command()(parity)
app.command()(rankers)
app.command()(tune)
app.add_typer(bench, name="bench")
app.add_typer(clicks, name="clicks")


if __name__ == "__main__":
    main()
