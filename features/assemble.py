"""Candidates + functions → FEATURES: the public entry of this room."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.pairs import Pairs, Stage, Vectors
from features.registry import FEATURES
from features.segments import Integers
from features.terms import QueryTerms
from retrieval.errors import InputError
from retrieval.frames import PAIRS, QUERIES, check
from retrieval.lexicon import Lexicon, Ragged

STAGES = ("bm25", "dense", "fused")
BATCH = 2_000_000
_CENTROID_SAMPLE = 1024


def assemble(
    candidates: pl.DataFrame,
    queries: pl.DataFrame,
    *,
    lexicon: Lexicon,
    query_vectors: NDArray[np.float32] | None,
    document_vectors: NDArray[np.float32] | None,
    names: Sequence[str] | None = None,
    batch: int = BATCH,
) -> pl.DataFrame:
    """Compute features of every candidate: qid, docid and one Float32 column a feature, in the candidates' row order.

    candidates: qid, docid and, for each stage S of bm25, dense and fused, `S_score: Float32` and `S_rank: Int32`, null
    where that stage did not return the document.
    queries: QUERIES; query_vectors: unit rows [queries, D] aligned with it; document_vectors: unit rows [documents, D]
    aligned with `lexicon.docids`. With both None the features made from vectors are NaN.
    names: the features wanted, in that order; None takes all of `registry.FEATURES`, in its order.
    batch: a bound on the work held in memory at once, in document terms (about 100 bytes each); a single query's
    candidates are never split, and no figure depends on it.

    NaN means missing: a stage's score where it did not return the document, and vectors where there are none. There is
    no other NaN, and no infinity.

    Raises InputError for an unknown feature, qid or docid, a pair that appears twice, a stage's score that is not a
    finite number or lacks its rank, and vectors that do not fit.
    """
    wanted = _wanted(names)
    check(candidates, PAIRS, "candidates")
    check(queries, QUERIES, "queries")
    _check_vectors(query_vectors, document_vectors, queries, lexicon)
    query = _index(candidates["qid"], queries["qid"], "candidates: the query", "is not in the queries")
    row = _index(candidates["docid"], lexicon.docids, "candidates: the document", "is not in the corpus")
    order = np.lexsort((row, query))
    query, row = query[order], row[order]
    _refuse_twice(query, row, queries, lexicon)
    stages = {stage: _stage(candidates, stage, order) for stage in STAGES}
    sequences = lexicon.encode(queries["query"].to_list())
    centroid = _centroid(document_vectors)

    columns = np.empty((len(wanted), len(row)), dtype=np.float32)
    for first, last, start, stop in _batches(query, lexicon.whole.lengths[row], len(sequences), batch):
        at = slice(start, stop)
        vectors = None
        if query_vectors is not None and document_vectors is not None and centroid is not None:
            vectors = Vectors(query_vectors[first:last], document_vectors, centroid)
        pairs = Pairs(
            lexicon=lexicon,
            terms=QueryTerms.of(_rows(sequences, first, last), lexicon),
            query=query[at] - first,
            row=row[at],
            stages={name: Stage(stage.score[at], stage.rank[at]) for name, stage in stages.items()},
            vectors=vectors,
        )
        for column, name in zip(columns, wanted, strict=True):
            column[order[at]] = FEATURES[name].compute(pairs)
    return pl.DataFrame([candidates["qid"], candidates["docid"], *map(pl.Series, wanted, columns)])


def _batches(query: Integers, length: Integers, queries: int, batch: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut sorted pairs between queries: (first query, last query + 1, first pair, last pair + 1) of every batch."""
    # In document terms: a pair's two vectors and a query's row in the term lookup are worth about so many.
    cost = np.bincount(query, length + 128, queries) + 4096
    group = ((np.cumsum(cost) - cost) // batch).astype(np.int64)
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(group)) + 1, [queries]])
    starts = np.searchsorted(query, firsts)
    for first, last, start, stop in zip(firsts, firsts[1:], starts, starts[1:], strict=False):
        if stop > start:
            yield int(first), int(last), int(start), int(stop)


def _rows(ragged: Ragged, first: int, last: int) -> Ragged:
    offsets = ragged.offsets[first : last + 1]
    return Ragged(ragged.ids[offsets[0] : offsets[-1]], offsets - offsets[0])


def _wanted(names: Sequence[str] | None) -> list[str]:
    if names is None:
        return list(FEATURES)
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise InputError(f"unknown feature {unknown[0]!r}; known: {', '.join(FEATURES)}")
    if len(set(names)) < len(names):
        raise InputError(f"a feature is asked for twice: {', '.join(names)}")
    return list(names)


def _index(ids: pl.Series, known: pl.Series, who: str, problem: str) -> Integers:
    """The position in `known` of every id: int64 [ids]."""
    positions = pl.DataFrame({"id": known}).with_row_index("at")
    found = pl.DataFrame({"id": ids}).join(positions, on="id", how="left", maintain_order="left")
    if found.height > len(ids):
        twice = known.filter(known.is_duplicated())[0]
        raise InputError(f"{known.name} {twice!r} appears twice; ids must be distinct")
    at = found["at"]
    if at.null_count():
        raise InputError(f"{who} {ids.filter(at.is_null())[0]!r} {problem}")
    return at.to_numpy().astype(np.int64)


def _refuse_twice(query: Integers, row: Integers, queries: pl.DataFrame, lexicon: Lexicon) -> None:
    twice = np.flatnonzero((np.diff(query) == 0) & (np.diff(row) == 0))
    if len(twice):
        qid, docid = queries["qid"][int(query[twice[0]])], lexicon.docids[int(row[twice[0]])]
        raise InputError(f"candidates: document {docid!r} appears twice for query {qid!r}; once is right")


def _stage(candidates: pl.DataFrame, stage: str, order: Integers) -> Stage:
    needed = {f"{stage}_score": pl.Float32(), f"{stage}_rank": pl.Int32()}
    for column, dtype in needed.items():
        if candidates.schema.get(column) != dtype:
            found = candidates.schema.get(column, "none")
            raise InputError(f"candidates: needs the column {column} of type {dtype}, found {found}")
    # numpy has NaN for a null, in the integer column too.
    score, rank = (candidates[column].to_numpy().astype(np.float64)[order] for column in needed)
    missing = np.isnan(score)
    if np.isinf(score).any() or missing.sum() > candidates[f"{stage}_score"].null_count():
        raise InputError(f"candidates: the column {stage}_score holds NaN or infinity; null marks a missing score")
    if (np.isnan(rank) != missing).any() or (rank < 1).any():
        raise InputError(f"candidates: {stage}_rank must be 1 or more where {stage}_score is given, and null elsewhere")
    return Stage(score, np.nan_to_num(rank).astype(np.int64))


def _check_vectors(
    query_vectors: NDArray[np.float32] | None,
    document_vectors: NDArray[np.float32] | None,
    queries: pl.DataFrame,
    lexicon: Lexicon,
) -> None:
    if (query_vectors is None) != (document_vectors is None):
        raise InputError("query vectors and document vectors must be given both or neither")
    for name, vectors, rows in (
        ("query", query_vectors, queries.height),
        ("document", document_vectors, len(lexicon.docids)),
    ):
        if vectors is not None and (vectors.ndim != 2 or len(vectors) != rows):
            raise InputError(f"{name} vectors: needs the shape ({rows}, dimensions), found {vectors.shape}")
        if vectors is not None and not np.issubdtype(vectors.dtype, np.floating):
            raise InputError(f"{name} vectors: needs floating-point numbers, found {vectors.dtype}")
    if query_vectors is None or document_vectors is None:
        return
    if query_vectors.shape[1] != document_vectors.shape[1]:
        widths = f"{query_vectors.shape[1]} and {document_vectors.shape[1]}"
        raise InputError(f"query and document vectors must be of one width, found {widths}")
    if not np.isfinite(query_vectors).all():
        raise InputError("query vectors hold NaN or infinity; they must be finite")


def _centroid(vectors: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """The mean of the document vectors, float32 [D], from 1,024 evenly spaced ones where there are more.

    The sample keeps one online query over a large corpus from reading every vector for its sake.
    """
    if vectors is None:
        return None
    at = np.linspace(0, len(vectors) - 1, min(len(vectors), _CENTROID_SAMPLE)).astype(np.int64)
    centroid: NDArray[np.float32] = vectors[at].mean(axis=0, dtype=np.float32)
    return centroid
