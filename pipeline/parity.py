"""Train/serve parity: what serving logged, computed again through the path that training uses.

Online, one query at a time goes through `Searcher` with the ranker's features alone. Offline, all queries of a log are
one frame: the stages search in a batch, `features.assemble` computes every feature there is, and the ranker scores all
candidates at once. Both must come to the same numbers, bit by bit; where they do not, the report names the feature.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from features.assemble import assemble
from features.registry import FEATURES
from pipeline.bundle import Bundle, open_bundle
from pipeline.compose import FUSED, RETRIEVERS, candidates, reranked
from pipeline.parity_report import Parity, difference, reordered
from pipeline.request_log import Session, environment
from pipeline.searcher import Parts
from retrieval.errors import InputError, IntegrityError

BATCH_QUERIES = 1000
STAGES = tuple(f"stage_{stage}" for stage in (*RETRIEVERS, FUSED))


def replay(sessions: Sequence[Session], *, home: Path, bundle: Path | None = None, tolerance: float = 0.0) -> Parity:
    """Compute every logged request again, on the bundle that served it, and compare.

    bundle: the folder of the bundle where it is no longer in `home`. tolerance: numbers this close count as the same,
    and documents whose offline scores are within twice as much may stand in either order; 0 compares bits. NaN is the
    same as NaN and nothing else.

    Raises InputError for a log without a request, a bundle that is gone or is not the one that served, and for a logged
    feature that no longer exists; IntegrityError for a damaged bundle and a request that is in the log twice.
    """
    if not tolerance >= 0 or np.isinf(tolerance):
        raise InputError(f"tolerance must be a finite number, 0 or more; found {tolerance}")
    requests = pl.concat([session.requests for session in sessions])
    if requests.is_empty():
        raise InputError("the log holds no request; `cascade search … --log FOLDER` writes some")
    twice = requests.filter(pl.col("id").is_duplicated())
    if twice.height:
        raise IntegrityError(f"request {twice['id'][0]} is in the log twice; remove the copy of its file")
    groups: dict[str, list[Session]] = {}
    for session in sessions:
        groups.setdefault(session.origin.fingerprint, []).append(session)
    opened = [(_bundle(home, bundle, group[0]), group) for group in groups.values()]
    compared = [part for served, group in opened for part in _replayed(served, group)]
    joined = pl.concat([frame for frame, _ in compared], how="diagonal")
    names = list(dict.fromkeys(name for session in sessions for name in session.origin.features))
    differences = [difference(joined, name, tolerance) for name in (*names, *STAGES, "score")]
    return Parity(
        requests=requests.height,
        documents=sum(session.shown.height for session in sessions),
        bundles=tuple(served.path.name for served, _ in opened),
        features=tuple(names),
        tolerance=tolerance,
        differences=tuple(found for found in differences if found is not None),
        reordered=reordered(requests, joined, pl.concat([run for _, run in compared]), tolerance),
        torn=tuple(session.path.name for session in sessions if session.torn),
        notes=tuple(dict.fromkeys(note for served, group in opened for note in _notes(served, group))),
    )


def _bundle(home: Path, given: Path | None, session: Session) -> Bundle:
    """The bundle that served `session`: the one given, or the one of its fingerprint in `home`."""
    origin = session.origin
    served = f"{origin.bundle} of fingerprint {origin.fingerprint[:12]}"
    if given is not None:
        found = open_bundle(given)
        if found.fingerprint != origin.fingerprint:
            raise InputError(
                f"{session.path.name}: was served by {served}, but {given} is of fingerprint {found.fingerprint[:12]}; "
                "name the bundle that served, or leave --bundle out to look for it in the home folder"
            )
        return found
    damaged = None
    for folder in sorted((home / "bundles").glob(f"*-{origin.fingerprint[:12]}*")):
        try:
            found = open_bundle(folder)
        except (InputError, IntegrityError) as error:
            damaged = error
            continue
        if found.fingerprint == origin.fingerprint:
            return found
    if damaged is not None:
        raise damaged
    raise InputError(
        f"{session.path.name}: was served by the bundle {served}, which is not in {home / 'bundles'}; give a copy as "
        "--bundle FOLDER, or publish it again: `cascade run` on the same data, settings and code makes the same bundle"
    )


def _replayed(bundle: Bundle, sessions: Sequence[Session]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """(what was shown, with the offline numbers beside it as `…_offline`; the offline RUN of each request: id, docid,
    rank, score), a batch at a time."""
    parts = Parts.of(bundle)
    for session in sessions:
        _check_features(parts, session)
    shown = pl.concat([session.shown for session in sessions], how="diagonal")
    for asked, named in _batches(pl.concat([session.requests for session in sessions])):
        offline, run = _offline(parts, asked, *named.select("depth", "candidates").row(0))
        offline = offline.rename({name: f"{name}_offline" for name in offline.columns[2:]})
        ids = named.select("id", "query", "k", "qid")
        mine = shown.join(ids.drop("k"), on="id", maintain_order="left")
        run = ids.join(run, on="qid", maintain_order="left").filter(pl.col("rank") <= pl.col("k"))
        yield (
            mine.join(offline, on=["qid", "docid"], how="left", maintain_order="left"),
            run.select("id", "docid", "rank", "score"),
        )


def _batches(requests: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """(QUERIES, the requests with the `qid` that stands for their text), at most BATCH_QUERIES texts at a time.

    Requests that asked the same with the same bounds are computed once.
    """
    for _, alike in requests.group_by("depth", "candidates", maintain_order=True):
        texts = alike.select("query").unique(maintain_order=True).with_row_index("at")
        texts = texts.with_columns(qid=pl.lit("text ") + pl.col("at").cast(pl.String))
        named = alike.drop("qid").join(texts, on="query", maintain_order="left")
        for start in range(0, texts.height, BATCH_QUERIES):
            part = texts.slice(start, BATCH_QUERIES)
            yield part.select("qid", "query"), named.join(part, on="qid", how="semi", maintain_order="left")


def _offline(parts: Parts, queries: pl.DataFrame, depth: int, number: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(every candidate's qid, docid, `stage_…` scores, features and score; the RUN), as the main job computes them."""
    vectors = parts.encoder.queries(queries["query"].to_list())
    runs = {"bm25": parts.bm25.search(queries, depth), "dense": parts.dense.search(queries["qid"], vectors, depth)}
    runs[FUSED] = parts.fusion.fuse(runs, depth)
    found = candidates(runs, number)
    stages = found.select("qid", "docid", *(pl.col(f"{stage}_score").alias(f"stage_{stage}") for stage in runs))
    if parts.ranker is None:
        run = runs[parts.system]
        return stages.join(run.select("qid", "docid", "score"), on=["qid", "docid"], how="left"), run
    features = assemble(
        found,
        queries,
        lexicon=parts.bm25.lexicon,
        query_vectors=vectors,
        document_vectors=parts.dense.vectors,
    )
    scores = np.asarray(parts.ranker.score(features), dtype=np.float32)
    values = features.with_columns(score=pl.Series(scores))
    return stages.join(values, on=["qid", "docid"], how="left", maintain_order="left"), reranked(features, scores)


def _check_features(parts: Parts, session: Session) -> None:
    logged = session.origin.features
    gone = [name for name in logged if name not in FEATURES]
    if gone:
        raise InputError(
            f"{session.path.name}: the logged feature {gone[0]!r} no longer exists; replay with the Cascade that "
            f"served ({session.origin.environment.get('cascade-ranking', 'of unknown version')})"
        )
    read = parts.ranker.feature_names if parts.ranker is not None else ()
    if other := sorted(set(read) ^ set(logged)):
        raise InputError(f"{session.path.name}: the log and its bundle's ranker do not agree on {', '.join(other)}")


def _notes(bundle: Bundle, sessions: Sequence[Session]) -> Iterator[str]:
    here = environment()
    for session in sessions:
        there = session.origin.environment
        other = [f"{name} {there.get(name)}, here {here.get(name)}" for name in there if there[name] != here.get(name)]
        if other:
            yield f"served with {'; '.join(other)}: last bits may differ for that"
    trained = bundle.metadata.get("candidates")
    if bundle.metadata.get("learned") and isinstance(trained, int):
        beyond = sum(int((session.requests["candidates"] > trained).sum()) for session in sessions)
        if beyond:
            yield (
                f"{beyond} requests asked for more than the {trained} candidates that the ranker was trained on: "
                "features that compare a document with the other candidates saw a longer list than in training"
            )
