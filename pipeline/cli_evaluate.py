"""`cascade evaluate`: rank with whatever is named, judge it side by side, keep it in MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import jobs
from pipeline.terminal import AsJson, Home, out, print_json, progress


def evaluate(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="SYSTEM…",
            help="TREC run, ranker folder, models:/NAME/VERSION (or @ALIAS), runs:/RUN/NAME, or the name or run id of "
            "a tracked system; NAME=SYSTEM names it.",
        ),
    ],
    qrels: Annotated[Path | None, typer.Option(help="TREC or BEIR judgements.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Rows for rankers and models: FEATURES as Parquet, or LETOR.")
    ] = None,
    queries: Annotated[Path | None, typer.Option(help="Queries, for results by length and form.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data set; the file's by default.")] = None,
    split: Annotated[str, typer.Option(help="Name of the split that is judged.")] = "test",
    metrics: Annotated[str | None, typer.Option(help="By comma; the first decides.")] = None,
    kinds: Annotated[
        str | None, typer.Option(help="By comma: length, form, relevant, or columns of the queries.")
    ] = None,
    blank: Annotated[str, typer.Option(help="What a query with nothing relevant counts: zero, one or skip.")] = "zero",
    pairs: Annotated[bool, typer.Option("--pairs", help="Every pair, however many systems there are.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Judge systems side by side: intervals, every pair tested, results by kind of query, all of it in MLflow."""
    policy = jobs.blank_policy(blank)
    from pipeline import evaluation_tables
    from pipeline.evaluate import evaluate_systems

    with progress() as show:
        result = evaluate_systems(
            systems,
            home=(home or jobs.default_home()).resolve(),
            qrels=qrels,
            features=features,
            queries=queries,
            dataset=dataset,
            split=split,
            metrics=_names(metrics),
            blank=policy,
            kinds=_names(kinds),
            progress=show,
        )
    evaluation = result.evaluation
    if as_json:
        runs = result.runs and {"run_id": result.runs.run_id, "systems": dict(result.runs.systems)}
        print_json({"dataset": result.dataset, "fingerprint": result.fingerprint, **evaluation.as_json(), "runs": runs})
        return
    out.print(evaluation_tables.systems_table(evaluation, dataset=result.dataset, width=out.width))
    if any(metric.startswith("ndcg") for metric in evaluation.metrics):
        out.print(evaluation_tables.conventions_table(evaluation, dataset=result.dataset))
    if evaluation.pairs:
        out.print(evaluation_tables.pairs_table(evaluation, every=pairs))
    if evaluation.groups:
        out.print(evaluation_tables.groups_table(evaluation, width=out.width))
    if result.runs:
        out.print(f"kept in MLflow as run {result.runs.run_id}; its plots: cascade compare says how", highlight=False)


def _names(listed: str | None) -> list[str] | None:
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]
