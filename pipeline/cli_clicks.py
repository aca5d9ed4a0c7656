"""`cascade clicks`: models, labels and estimates from click logs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from pipeline.terminal import WIDE, AsJson, out, print_json, progress
from retrieval.errors import InputError

if TYPE_CHECKING:
    from pipeline.clicks import Judged
    from rankers.clicks.offpolicy import Estimate
    from rankers.clicks.quality import Quality

app = typer.Typer(
    no_args_is_help=True, help="Learn from click logs: Parquet of qid, docid, position, click, session.",
    pretty_exceptions_enable=False,
)  # fmt: skip

LogFile = Annotated[Path, typer.Argument(metavar="LOG", help="Click log, Parquet.")]
HeldOut = Annotated[float, typer.Option("--held-out", help="Share of the sessions that models are judged on.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Propensity = Annotated[
    str | None,
    typer.Option(help="Where propensities come from: swap, pbm, regression-em, log (its column), or a Parquet file."),
]


@app.command()
def fit(
    log: LogFile,
    model: Annotated[str, typer.Option(help="pbm, cascade or dbn.")],
    out_folder: Annotated[Path | None, typer.Option("--out", help="Folder to store the fitted model in.")] = None,
    held_out: HeldOut = 0.2,
    smoothing: Annotated[float, typer.Option(help="Impressions of the mean click rate added to each document.")] = 1.0,
    continuation: Annotated[
        float | None, typer.Option(help="dbn: hold the perseverance at this.", show_default="estimated")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a click model to a log, and say how well it predicts sessions that it has not seen."""
    from pipeline import clicks

    with progress() as show:
        fitted = clicks.fit(
            log, model, out=out_folder, held_out=held_out, seed=seed, smoothing=smoothing, continuation=continuation,
            progress=show,
        )  # fmt: skip
    if as_json:
        stored = {"out": str(out_folder)} if out_folder else {}
        pairs = fitted.model.parameters.height
        print_json(
            {"model": model, "pairs": pairs, "shared": fitted.model.shared, **_quality(fitted.quality), **stored}
        )
        return
    out.print(_quality_table({model: fitted.quality}))
    if "examination" in fitted.model.shared:
        out.print(_examination_table(fitted.model.shared))
    elif fitted.model.shared:
        out.print(", ".join(f"{name} {value:.4f}" for name, value in fitted.model.shared.items()), highlight=False)
    if out_folder:
        out.print(f"stored in {out_folder}; try: cascade clicks labels {log} --model {out_folder} --out labels.parquet",
                  highlight=False, soft_wrap=True)  # fmt: skip


@app.command()
def labels(
    log: LogFile,
    out_file: Annotated[
        Path, typer.Option("--out", help="File to write: Parquet, or graded TREC judgements (.qrels).")
    ],
    model: Annotated[str | None, typer.Option(help="pbm, cascade, dbn, or the folder of a fitted model.")] = None,
    method: Annotated[
        str | None, typer.Option(help="model, ctr (naive), ips or dr.", show_default="model where --model is given")
    ] = None,
    propensity: Propensity = None,
    features: Annotated[
        list[Path] | None, typer.Option(help="LETOR files with the documents' features; repeats.")
    ] = None,
    clip: Annotated[float, typer.Option(help="A propensity below it counts as it.")] = 0.01,
    min_dwell: Annotated[float | None, typer.Option(help="Seconds below which a click is none (ctr, ips, dr).")] = None,
    grades: Annotated[str | None, typer.Option(help="Grade by these edges, such as 0.1,0.3,0.6.")] = None,
    as_json: AsJson = False,
) -> None:
    """Derive relevance labels from a log: to train on (soft), or, with --grades, to judge by."""
    from pipeline import clicks

    if method is None and model is None:
        raise InputError("labels: name a click model (--model) or a method (--method ctr, ips or dr)")
    with progress() as show:
        found = clicks.labels(
            log, method=method or "model", model=model, propensity=propensity, features=features or [], clip=clip,
            min_dwell=min_dwell, grades=_edges(grades), out=out_file, progress=show,
        )  # fmt: skip
    relevance = found["relevance"]
    summary = {
        "method": method or "model", "labels": found.height, "queries": found["qid"].n_unique(),
        "lowest": relevance.min(), "mean": relevance.mean(), "highest": relevance.max(), "out": str(out_file),
    }  # fmt: skip
    if as_json:
        print_json(summary)
        return
    spread = f"from {summary['lowest']:.4g} to {summary['highest']:.4g}, mean {summary['mean']:.4g}"
    said = f"{found.height:,} labels of {summary['queries']:,} queries, {spread}: {out_file}"
    out.print(said, highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    log: Annotated[Path | None, typer.Argument(metavar="[LOG]", help="Click log, Parquet.")] = None,
    model: Annotated[str | None, typer.Option(help="By comma: pbm, cascade, dbn, or folders of fitted models.")] = None,
    run: Annotated[Path | None, typer.Option(help="A TREC run: a new ranking to value by the log.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Click-derived labels (Parquet) to judge the run by.")] = None,
    propensity: Propensity = None,
    k: Annotated[int, typer.Option(help="Cutoff of NDCG, and documents of the new ranking that are shown.")] = 10,
    held_out: HeldOut = 0.2,
    seed: Seed = 0,
    obp: Annotated[
        Path | None, typer.Option(help="Open Bandit Dataset folder that logged, such as random/all.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="With --obp: the folder of the policy to value (bts/all).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge click models on held-out sessions, and value a new ranking (or a bandit's policy) from a log."""
    from pipeline import clicks

    if (obp is None) != (policy is None) or (obp is None) == (log is None):
        raise InputError("evaluate: give a click log, or --obp FOLDER with --policy FOLDER")
    if obp is not None and policy is not None:
        found, earned = clicks.evaluate_bandit(obp, policy)
        if as_json:
            print_json({"estimates": [asdict(each) for each in found], "earned": earned})
            return
        out.print(_value_table({"decision": found}, {}, f"click rate of {policy}, from the log {obp}"))
        out.print(f"in its own log it earned {earned:.4f}", highlight=False)
        return
    names = [name.strip() for name in (model or "").split(",") if name.strip()]
    with progress() as show:
        judged = clicks.evaluate(
            Path(str(log)), names, held_out=held_out, seed=seed, run=run, labels=labels, propensity=propensity, k=k,
            progress=show,
        )  # fmt: skip
    if as_json:
        print_json(_judged(judged, k))
        return
    if judged.models:
        out.print(_quality_table(judged.models))
    if run is not None:
        _print_run(judged, run, k)


@app.command()
def simulate(
    judged: Annotated[list[Path], typer.Argument(metavar="LETOR...", help="Judged LETOR files.")],
    out_file: Annotated[Path, typer.Option("--out", help="Click log to write, Parquet.")],
    user: Annotated[str, typer.Option(help="pbm, cascade or dbn.")] = "pbm",
    by: Annotated[str | None, typer.Option(help="Feature that ranks what is shown, such as f25.")] = None,
    run: Annotated[Path | None, typer.Option(help="TREC run that is shown instead.")] = None,
    sessions: Annotated[int, typer.Option(help="Pages to show.")] = 10_000,
    depth: Annotated[int, typer.Option(help="Documents a page.")] = 10,
    eta: Annotated[float, typer.Option(help="pbm: position r is examined with probability (1/r)^eta.")] = 1.0,
    noise: Annotated[float, typer.Option(help="Probability of a click on an examined irrelevant document.")] = 0.1,
    swap: Annotated[float, typer.Option(help="Share of sessions whose top document changes places at random.")] = 0.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate a click log from judged documents, to try a method where the truth is known."""
    from pipeline import clicks

    made = clicks.simulate(
        judged, out=out_file, user=user, by=by, run=run, sessions=sessions, depth=depth, eta=eta, noise=noise,
        swap=swap, seed=seed,
    )  # fmt: skip
    if as_json:
        print_json(made)
        return
    out.print(f"{made['clicks']:,} clicks on {made['impressions']:,} impressions in {sessions:,} sessions: {out_file}",
              highlight=False, soft_wrap=True)  # fmt: skip


def _edges(grades: str | None) -> list[float]:
    if grades is None:
        return []
    try:
        return [float(edge) for edge in grades.split(",")]
    except ValueError as error:
        raise InputError(f"--grades: {grades!r} is no list of numbers, such as 0.1,0.3,0.6") from error


def _quality(quality: "Quality") -> dict[str, Any]:
    return {
        "log_likelihood": quality.log_likelihood,
        "perplexity": quality.perplexity,
        "perplexity_by_position": {str(position): value for position, value in quality.by_position.items()},
        "held_out_pages": quality.pages,
        "unseen": quality.unseen,
    }


def _judged(judged: "Judged", k: int) -> dict[str, Any]:
    found: dict[str, Any] = {"models": {name: _quality(quality) for name, quality in judged.models.items()}}
    if judged.values:
        found["run"] = {
            f"ndcg_cut_{k}": judged.ndcg,
            "values": {how: [asdict(each) for each in values] for how, values in judged.values.items()},
            "support": judged.support,
            "logged": judged.logged_value,
        }
    return found


def _quality_table(models: "dict[str, Quality]") -> Table:
    any_one = next(iter(models.values()))
    table = Table(title=f"{any_one.pages:,} held-out pages", box=box.SIMPLE_HEAD,
                  caption="log-lik.: log-likelihood a page; perplexity: 1 is perfect, 2 a fair coin")  # fmt: skip
    table.add_column("model", no_wrap=True)
    positions = list(any_one.by_position)[: 10 if out.width >= WIDE else 3]
    for heading in ("log-lik.", "perplexity", *(f"@{position}" for position in positions), "unseen"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, quality in models.items():
        cells = [f"{quality.by_position[position]:.4f}" for position in positions]
        table.add_row(name, f"{quality.log_likelihood:.4f}", f"{quality.perplexity:.4f}", *cells,
                      f"{quality.unseen:.1%}")  # fmt: skip
    return table


def _examination_table(shared: dict[str, Any]) -> Table:
    table = Table("position", "examined", title="examination", box=box.SIMPLE_HEAD)
    for position, examined in list(zip(shared["positions"], shared["examination"], strict=True))[:10]:
        table.add_row(str(position), f"{examined:.4f}")
    return table


def _print_run(judged: "Judged", run: Path, k: int) -> None:
    if judged.ndcg:
        table = Table("labels", f"NDCG@{k}", title=f"{run} by click-derived labels", box=box.SIMPLE_HEAD)
        for name, value in judged.ndcg.items():
            table.add_row(name, f"{value:.4f}")
        out.print(table)
    out.print(_value_table(judged.values, judged.support, f"clicks a page of {run}, top {k}, from the log"))
    out.print(f"what the log showed earned {judged.logged_value:.4f}", highlight=False)


def _value_table(values: "dict[str, list[Estimate]]", support: dict[str, float], title: str) -> Table:
    caption = (
        "95 % by Student's t over pages or decisions; effective: as many of them; "
        "support: slots of the new ranking that the log can value"
    )
    table = Table(title=title, box=box.SIMPLE_HEAD, caption=caption)
    table.add_column("by", no_wrap=True)
    table.add_column("", no_wrap=True)
    for heading in ("value", "95 %", "effective", "support"):
        table.add_column(heading, justify="right", no_wrap=True)
    for how, found in values.items():
        for each in found:
            share = f"{support[how]:.1%}" if how in support else ""
            table.add_row(how.replace("_", "-"), each.name, f"{each.value:.4f}", f"{each.low:.4f} {each.high:.4f}",
                          f"{each.effective:,.0f}", share)  # fmt: skip
    return table
