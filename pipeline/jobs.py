"""The jobs of Cascade, as Python calls: what the command line, the DAGs and notebooks all use.

from pipeline.jobs import run, search

result = run("pydocs")                                # retrieve, rank, judge, track, promote, publish
result.leaderboard.system("lambdamart").metrics
search("how do I read a zip file", k=5)               # on the published bundle
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import polars as pl

from pipeline.bundle import make_current, publish
from pipeline.config import Settings
from pipeline.results import Leaderboard, System
from pipeline.score import score
from pipeline.stages import Stages
from retrieval.datasets import load
from retrieval.errors import CascadeError, InputError, IntegrityError
from retrieval.metrics import Blank

if TYPE_CHECKING:
    from pipeline.mainjob import MainJob, Progress
    from pipeline.tracking import Promotion

__all__ = ["RunResult", "blank_policy", "default_home", "run", "score", "search"]

log = logging.getLogger(__name__)


def default_home() -> Path:
    """Where all state is kept: CASCADE_HOME, or `.cascade` in the working directory."""
    return Path(os.environ.get("CASCADE_HOME") or ".cascade")


def blank_policy(name: str) -> Blank:
    """`name` as a blank-query policy. Raises InputError for another."""
    match name:
        case "zero" | "one" | "skip":
            return name
        case _:
            raise InputError(f"unknown blank policy {name!r}; known: {', '.join(get_args(Blank))}")


def _quiet(stage: str, done: int, total: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class RunResult:
    """What `run` did: the leaderboard, what became of the system put forward, and the bundle that is now current.

    `promotion` is None where MLflow could not be written (a warning says why).
    """

    leaderboard: Leaderboard
    promotion: "Promotion | None"
    bundle: Path


def run(
    source: str | Path,
    *,
    home: Path | None = None,
    settings: Settings | None = None,
    limit: int | None = None,
    packages: bool = False,
    columns: Mapping[str, str] | None = None,
    queries: str | Path | None = None,
    qrels: str | Path | Mapping[str, str | Path] | None = None,
    blank: Blank = "zero",
    progress: "Progress" = _quiet,
) -> RunResult:
    """The main job: judged text in; every system trained, compared, tracked in MLflow; the champion published.

    source, limit, packages, columns, queries, qrels: the data set, see `retrieval.datasets.load`.
    home: holds all state (default: `default_home()`). blank: what a query with nothing relevant counts.
    progress: called with (stage, done, total) as long stages advance.

    Stages whose inputs, settings and code are unchanged come from the cache. Raises CascadeError (InputError for bad
    data or settings, MissingExtra without FAISS); what was published before then stays current.
    """
    home = (home or default_home()).resolve()
    settings = settings or Settings()
    dataset = load(source, limit=limit, packages=packages, columns=columns, queries=queries, qrels=qrels)
    # Heavy rooms (FAISS, LightGBM) load only once the data is known to be good.
    from pipeline import build
    from pipeline.judge import leaderboard
    from pipeline.mainjob import MainJob

    build.dense_index()
    job = MainJob(dataset, settings, stages=Stages(home=home), progress=progress)
    board = leaderboard(job, blank=blank)
    for note in board.notes:
        log.warning("%s", note)
    return _promote_and_publish(job, board, home)


def _promote_and_publish(job: "MainJob", board: Leaderboard, home: Path) -> RunResult:
    from pipeline.tracking import Tracker

    selected = board.system(board.selected)
    try:
        job.progress("track", 0, 1)
        tracker = Tracker(home)
        promotion = tracker.promote(board, tracker.log(board))
        kept = tracker.champion_bundle(board.fingerprint) if promotion.status != "champion" else None
        job.progress("track", 1, 1)
    except CascadeError as error:
        log.warning("not tracked, and published without a comparison with the champion: %s", error)
        return RunResult(board, None, _publish(job, selected, home))
    if kept is not None:
        try:
            make_current(home, home / "bundles" / kept)
            return RunResult(board, promotion, home / "bundles" / kept)
        except (InputError, IntegrityError) as error:
            log.warning("the champion's bundle cannot be used (%s): this run's is published", error)
    elif promotion.status == "challenger":
        log.warning("the champion %s was never published: this run's is", promotion.champion)
    bundle = _publish(job, selected, home)
    try:
        tracker.set_bundle(promotion, bundle.name)
    except CascadeError as error:
        log.warning("published %s, but MLflow does not know of it: %s", bundle.name, error)
    return RunResult(board, promotion, bundle)


def _publish(job: "MainJob", system: System, home: Path) -> Path:
    """Make a bundle of everything that `system`'s path needs, and make it current."""
    docs = job.stages.run(
        "docs",
        inputs={"docs": job.docs_key},
        settings={},
        code=(),
        make=lambda folder: job.dataset.docs.write_parquet(folder / "docs.parquet"),
    )
    files = {
        **job.lexical.files("lexical"),
        **job.dense.files("dense"),
        "fusion.json": job.fused_run.path / "fusion.json",
        "docs.parquet": docs.path / "docs.parquet",
    }
    if system.ranker is not None:
        files["ranker"] = system.ranker
    return publish(
        home,
        name=job.dataset.name,
        files=files,
        manifest={
            "dataset": job.dataset.name,
            "dataset_fingerprint": job.dataset.fingerprint,
            "system": system.name,
            "system_key": system.key,
            "learned": system.ranker is not None,
            "encoder": job.settings.encoder,
            "encoder_fingerprint": job.encoder_key,
            "depth": job.settings.depth,
            "candidates": job.settings.candidates,
            "features": list(system.importance),
        },
    )


def search(
    query: str | pl.DataFrame, *, home: Path | None = None, k: int = 10, explain: bool = False, log: Path | None = None
) -> pl.DataFrame:
    """Search the current bundle with one query or a QUERIES frame; see `pipeline.searcher.Searcher.search`.

    log: a folder that the requests are kept in, for `cascade parity`. Opens the bundle anew each time: a service keeps
    one `Searcher` and asks it.
    """
    from pipeline.request_log import RequestLog
    from pipeline.searcher import Searcher, check_asked

    if isinstance(query, str):
        query = pl.DataFrame({"qid": ["1"], "query": [query]})
    check_asked(query, k)  # before a bundle is read for nothing
    searcher = Searcher.open((home or default_home()).resolve())
    return searcher.search(query, k=k, explain=explain, log=RequestLog(log) if log is not None else None)
