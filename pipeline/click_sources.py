"""What the jobs on click logs are given by name or by file: models, propensities, labels, simulated users."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import polars as pl

from rankers.clicks.log import PROPENSITY, counts, read_whole, write_whole
from retrieval.errors import InputError
from retrieval.frames import check
from retrieval.letor import read_letor

if TYPE_CHECKING:
    from rankers.clicks.protocol import ClickModel
    from rankers.clicks.users import User
    from rankers.protocol import Log

Progress: TypeAlias = Callable[[str, int, int], None]

MODELS = ("pbm", "cascade", "dbn")
SOURCES = ("swap", "pbm", "regression-em", "log")
"""Where propensities come from, beside a file."""
ITERATIONS = {"pbm": 500, "cascade": 1, "dbn": 100, "regression-em": 50}
"""At most; fitting stops where the likelihood does."""


def quiet(stage: str, done: int, total: int) -> None:
    """Shows no progress."""


def shown(progress: Progress, what: str) -> "Log":
    """What a fit calls each step, as `progress`."""
    return lambda metrics, step: progress(f"fit {what}", step, ITERATIONS[what])


def fit_model(
    name: str,
    log: pl.DataFrame,
    smoothing: float = 1.0,
    continuation: float | None = None,
    progress: Progress = quiet,
) -> "ClickModel":
    """The click model called `name`, fitted to a LOG. Raises InputError for an unknown name and as the fits do."""
    if continuation is not None and name != "dbn":
        raise InputError(f"only dbn has a continuation, not {name}")
    match name:
        case "pbm":
            from rankers.clicks.pbm import fit_pbm

            return fit_pbm(counts(log), log=shown(progress, name), smoothing=smoothing)
        case "cascade":
            from rankers.clicks.cascade import fit_cascade

            return fit_cascade(log, log=shown(progress, name), smoothing=smoothing)
        case "dbn":
            from rankers.clicks.dbn import fit_dbn

            return fit_dbn(log, log=shown(progress, name), smoothing=smoothing, continuation=continuation)
        case _:
            raise InputError(f"unknown click model {name!r}; known: {', '.join(MODELS)}")


def model_of(name: str, log: pl.DataFrame, progress: Progress = quiet) -> "ClickModel":
    """The model stored in the folder `name`, or the one called so, fitted to `log`."""
    if name in MODELS:
        return fit_model(name, log, progress=progress)
    from rankers.clicks.store import load_model

    if not Path(name).is_dir():
        raise InputError(f"{name!r} is neither a click model ({', '.join(MODELS)}) nor the folder of a fitted one")
    return load_model(Path(name))


def propensities(
    sums: pl.DataFrame, source: str | None, features: Sequence[Path] = (), progress: Progress = quiet
) -> pl.DataFrame | None:
    """Propensities for every position of COUNTS from `source`; None (the log's own column) for "log" or no source."""
    from rankers.clicks.propensity import filled_down, swap_propensities

    depth = int(sums.select(pl.col("position").max()).item())
    match source:
        case None | "log":
            if PROPENSITY not in sums.columns:
                raise InputError(
                    f"the log has no column propensity: name a source ({', '.join(SOURCES[:3])}) or a file"
                )
            return None
        case "swap":
            return filled_down(swap_propensities(sums), depth)
        case "pbm":
            from rankers.clicks.pbm import fit_pbm

            return filled_down(fit_pbm(sums, log=shown(progress, "pbm")).propensities(), depth)
        case "regression-em":
            if not features:
                raise InputError("regression-em needs the documents' features: give LETOR files (--features)")
            return filled_down(estimates_of(sums, features, progress)[0], depth)
        case _:
            from rankers.clicks.propensity import PROPENSITIES

            return check(read_whole(Path(source)), PROPENSITIES, source)


def estimates_of(sums: pl.DataFrame, features: Sequence[Path], progress: Progress) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Propensities and LABELS of COUNTS at once: by regression-EM on the features of LETOR files, else by the
    position-based model."""
    if not features:
        from rankers.clicks.pbm import fit_pbm

        model = fit_pbm(sums, log=shown(progress, "pbm"))
        return model.propensities(), model.relevance()
    from rankers.clicks.regression import fit_regression_em

    frame = read_letor(features)
    names = [column for column in frame.columns if column not in ("qid", "docid", "relevance")]
    found = fit_regression_em(sums, frame, feature_names=names, log=shown(progress, "regression-em"))
    return found.propensities, found.relevance


def read_labels(path: Path) -> pl.DataFrame:
    """LABELS of a Parquet file, soft or graded. Raises InputError naming the file for one that holds anything else."""
    from rankers.clicks.labels import LABELS

    frame = read_whole(path)
    if frame.schema.get("relevance") == pl.Int32:
        frame = frame.with_columns(pl.col("relevance").cast(pl.Float32))
    return check(frame, LABELS, str(path))


def write_labels(labels: pl.DataFrame, path: Path) -> None:
    """Write labels: a `.txt` or `.qrels` file gets TREC judgements, which must be grades; any other is Parquet.

    Raises InputError, and writes nothing, for soft labels as TREC judgements, an id with white space, and a path that
    cannot be written.
    """
    if path.suffix not in (".txt", ".qrels"):
        write_whole(labels, path)
        return
    if labels.schema["relevance"] != pl.Int32:
        raise InputError(f"{path}: TREC judgements are grades; give the edges between them (--grades) or a .parquet")
    for column in ("qid", "docid"):
        wrong = labels.filter(pl.col(column).str.contains(r"^$|\s"))
        if wrong.height:
            raise InputError(
                f"{path}: the {column} {wrong[column][0]!r} is empty or holds white space; TREC has neither"
            )
    lines = labels.select(pl.format("{} 0 {} {}", "qid", "docid", "relevance")).to_series()
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def user_of(name: str, eta: float) -> "User":
    """The simulated user called pbm (with `eta`), cascade or dbn. Raises InputError for another name."""
    from rankers.clicks.users import CascadeUser, DynamicBayesianUser, PositionBasedUser

    match name:
        case "pbm":
            return PositionBasedUser(eta)
        case "cascade":
            return CascadeUser()
        case "dbn":
            return DynamicBayesianUser()
        case _:
            raise InputError(f"unknown user {name!r}; known: {', '.join(MODELS)}")
