"""The evaluation job: whatever can rank (a run file, a ranker, an MLflow model, a tracked system) judged side by side.

from pipeline.evaluate import evaluate_systems

result = evaluate_systems(["bm25.run", "models:/cascade-nq-3f2a/2"], qrels="dev.qrels", features="dev.parquet")
result.evaluation.pair("bm25", "lambdamart").p_holm
"""

import hashlib
import logging
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipeline import build
from pipeline.comparable import Judged, content_of, fingerprints_of
from pipeline.compose import reranked
from pipeline.durable import fingerprint
from pipeline.evaluation import DEFAULT_METRICS, Evaluation, compare, judge
from pipeline.evaluation_log import EvaluationRuns, Extras
from pipeline.mlflow_database import DATABASE
from pipeline.reasons import reasons_of
from pipeline.tracked import Tracked
from pipeline.tracking import Tracker
from rankers.artifact import DESCRIPTION, read
from retrieval.errors import CascadeError, InputError
from retrieval.frames import PAIRS, QRELS, check
from retrieval.letor import read_letor
from retrieval.metrics import Blank
from retrieval.tables import read_queries
from retrieval.trec import read_qrels, read_run

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate_systems` found, and where MLflow keeps it (None where it could not be written)."""

    evaluation: Evaluation
    dataset: str
    fingerprint: str
    runs: EvaluationRuns | None


@dataclass
class _Found:
    """What the named systems turned out to be: rankings to judge, and systems that were judged before."""

    home: Path
    runs: dict[str, pl.DataFrame] = field(default_factory=dict)
    tracked: dict[str, Tracked] = field(default_factory=dict)
    features: dict[str, Sequence[str]] = field(default_factory=dict)
    extras: dict[str, Extras] = field(default_factory=dict)

    def tracker(self, system: str) -> Tracker:
        """The home's, which is not made only to look for `system` in it."""
        if not (self.home / DATABASE).is_file():
            raise InputError(f"{system}: no such file or folder, and nothing is tracked in {self.home} yet")
        return Tracker(self.home)


def evaluate_systems(
    systems: Sequence[str],
    *,
    home: Path,
    qrels: Path | None = None,
    features: Path | None = None,
    queries: Path | None = None,
    dataset: str | None = None,
    split: str = "test",
    metrics: Sequence[str] | None = None,
    blank: Blank = "zero",
    kinds: Sequence[str] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> EvaluationResult:
    """Evaluate `systems` on the queries that `qrels` judges, compare every pair, and log it in MLflow under `home`.

    systems: each a TREC run file, a ranker's artifact folder, an MLflow model (`models:/NAME/VERSION`, `models:/NAME@
        ALIAS`, `models:/MODEL_ID`, `runs:/RUN/NAME`), or the run id or name of a system tracked under `home`; `NAME=`
        before it names it. Rankers and models rank the rows of `features`.
    qrels: TREC or BEIR judgements; without them those of `features`, or of the tracked systems, serve.
    features: FEATURES as Parquet (qid, docid, a column a feature), or LETOR / SVMLight, which is judged.
    queries: for results by length and form, and by their columns (`kinds`). dataset: its name; the file's by default.
    metrics: the first decides; by default `evaluation.DEFAULT_METRICS`, or those that every tracked system has.

    Raises InputError for systems judged on other queries, qrels or splits, and for whatever cannot be read or ranked;
    IntegrityError for a stored model that was altered.
    """
    names = _named(systems)
    rows = None if features is None else _read_features(features)
    judgements = _judgements(qrels, rows)
    asked = None if queries is None else read_queries(queries)
    found = _Found(home)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, system) in enumerate(names.items()):
            progress("read and rank", number, len(names))
            _find(found, name, system, rows, split, judgements, Path(folder, str(number)))
        progress("read and rank", len(names), len(names))
        if found.runs and judgements is None:
            raise InputError("no judgements to evaluate by: give --qrels, or --features with a relevance column")
        known = {name: tracked.judged for name, tracked in found.tracked.items()}
        wanted = list(metrics) if metrics else _metrics(known)
        if judgements is not None and found.runs:
            known |= judge(found.runs, judgements, metrics=wanted, queries=asked, features=found.features, split=split)
        in_order = {name: known[name] for name in names}
        evaluation = compare(in_order, metrics=wanted, blank=blank, qrels=judgements, queries=asked, kinds=kinds)
        if judgements is not None and fingerprints_of(judgements).qrels != evaluation.fingerprints.qrels:
            raise InputError(f"{next(iter(names))}: was judged by other qrels than {qrels or features}")
        title, key = dataset or _title(qrels or features), _data_key(evaluation, rows)
        for tracked in found.tracked.values():
            # What is judged beside a tracked system is judged on its data set.
            title, key = tracked.dataset, tracked.fingerprint
            break
        return EvaluationResult(evaluation, title, key, _log(home, evaluation, title, key, found.extras, progress))


def _log(
    home: Path, evaluation: Evaluation, dataset: str, key: str, extras: Mapping[str, Extras], progress: Progress
) -> EvaluationRuns | None:
    progress("track", 0, 1)
    try:
        runs = Tracker(home).log_evaluation(evaluation, dataset=dataset, fingerprint=key, extras=extras)
    except CascadeError as error:
        log.warning("not tracked: %s", error)
        return None
    progress("track", 1, 1)
    return runs


def _named(systems: Sequence[str]) -> dict[str, str]:
    """Name → system; the name is what stands before `=`, else the file's or the model's."""
    if not systems:
        raise InputError("nothing to evaluate; name at least one run file, ranker folder, model or tracked system")
    named: dict[str, str] = {}
    for system in systems:
        match = None if Path(system).exists() else re.fullmatch(r"([^=/\s]+)=(.+)", system)
        name, what = (match[1], match[2]) if match else (_short(system), system)
        if name in named:
            raise InputError(f"two systems are called {name!r}; tell them apart: NAME={what}")
        named[name] = what
    return named


def _short(system: str) -> str:
    if system.startswith(("models:/", "runs:/")):
        return system.partition(":/")[2].strip("/").replace("/", "-")
    path = Path(system)
    if path.is_dir():
        return path.resolve().parent.name if path.resolve().name == "ranker" else path.resolve().name
    return re.sub(r"\.(run|txt|trec|tsv|gz)(\.gz)?$", "", path.name) if path.is_file() else system


def _find(
    found: _Found,
    name: str,
    system: str,
    rows: pl.DataFrame | None,
    split: str,
    judgements: pl.DataFrame | None,
    folder: Path,
) -> None:
    """Add the system to `found`: ranked, or with the figures that it was tracked with."""
    path = Path(system)
    if system.startswith(("models:/", "runs:/")):
        model = found.tracker(system).load_model(system, folder)
        frame = _rows_for(name, rows)
        found.runs[name] = reranked(frame, model.score(frame))
        found.features[name] = model.feature_names
        reasons = None if model.ranker is None else reasons_of(build.load_ranker(model.ranker), frame)
        found.extras[name] = Extras(
            key=model.place.key, model_id=model.place.model_id, params={"model": system}, reasons=reasons
        )
    elif path.is_dir():
        ranker, frame = build.load_ranker(path), _rows_for(name, rows)
        found.runs[name] = reranked(frame, ranker.score(frame))
        found.features[name] = ranker.feature_names
        key = hashlib.sha256((path / DESCRIPTION).read_bytes()).hexdigest()
        settings = read(path).hyperparameters
        found.extras[name] = Extras(key=key, ranker=path, params=settings, reasons=reasons_of(ranker, frame))
    elif path.is_file():
        found.runs[name] = read_run(path)
    else:
        wanted = None if judgements is None else fingerprints_of(judgements).qrels
        found.tracked[name] = known = found.tracker(system).tracked(system, split=split, qrels=wanted)
        found.extras[name] = Extras(key=known.key, model_id=known.model_id, params={"tracked": system})


def _rows_for(name: str, rows: pl.DataFrame | None) -> pl.DataFrame:
    if rows is None:
        raise InputError(f"{name}: is a ranker; give --features with the rows that it is to rank")
    return rows


def _read_features(path: Path) -> pl.DataFrame:
    if path.suffix != ".parquet":
        return read_letor([path])
    try:
        return check(pl.read_parquet(path), PAIRS, str(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(f"{path}: cannot be read as Parquet: {reason}") from error


def _judgements(qrels: Path | None, rows: pl.DataFrame | None) -> pl.DataFrame | None:
    if qrels is not None:
        return read_qrels(qrels)
    if rows is None or "relevance" not in rows.columns:
        return None
    return check(rows, QRELS, "features").select(*QRELS)


def _metrics(judged: Mapping[str, Judged]) -> list[str]:
    """The usual metrics, or those of them that every system has figures of that was judged before."""
    shared = [m for m in DEFAULT_METRICS if all(m in system.per_query.columns for system in judged.values())]
    return shared or list(DEFAULT_METRICS)


def _title(path: Path | None) -> str:
    return "tracked systems" if path is None else re.sub(r"\.(qrels|txt|tsv|parquet|gz)(\.gz)?$", "", path.name)


def _data_key(evaluation: Evaluation, rows: pl.DataFrame | None) -> str:
    """The fingerprint of the data evaluated on: judgements, queries, and the rows ranked with their values."""
    prints = evaluation.fingerprints
    values = hashlib.sha256()
    if rows is not None:
        ordered = rows.sort(*PAIRS)
        values.update(content_of(rows.select(*PAIRS)).encode())
        for column in sorted(name for name, dtype in rows.schema.items() if dtype.is_numeric()):
            values.update(column.encode())
            values.update(ordered[column].cast(pl.Float32).fill_null(float("nan")).to_numpy().tobytes())
    whole = {"qrels": prints.qrels, "queries": prints.queries, "texts": prints.texts, "rows": values.hexdigest()}
    return fingerprint(whole, "the data")
