"""Online search over a published bundle: the batch path, for queries that come one at a time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import polars as pl

from features.assemble import assemble
from pipeline import build
from pipeline.bundle import Bundle, open_bundle
from pipeline.compose import FUSED, RETRIEVERS, candidates, reranked
from pipeline.request_log import Origin, RequestLog, environment
from rankers.protocol import Ranker
from retrieval import checkpoint
from retrieval.bm25 import BM25
from retrieval.errors import InputError
from retrieval.frames import QUERIES, check
from retrieval.fusion import Fusion
from retrieval.queries import check_queries

if TYPE_CHECKING:
    from retrieval.dense import DenseIndex
    from retrieval.encoder import Encoder

logger = logging.getLogger(__name__)

Assemble = Callable[..., pl.DataFrame]
"""What `features.assemble.assemble` is: candidates and queries to FEATURES."""


@dataclass(frozen=True)
class Parts:
    """What a bundle holds, opened: the same objects for online search and for its offline replay.

    depth: documents a stage returns a query; candidates: those that the ranker sees, as it was trained.
    """

    bundle: Bundle
    system: str
    depth: int
    candidates: int
    bm25: BM25
    dense: "DenseIndex"
    encoder: "Encoder"
    fusion: Fusion
    docs: pl.DataFrame
    ranker: Ranker | None

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Open a verified bundle. Raises InputError where the encoder that it was built with is not there."""
        said = cast(dict[str, Any], bundle.metadata)
        folder = checkpoint.locate(said["encoder"])
        found = checkpoint.fingerprint(folder)
        if found != said["encoder_fingerprint"]:
            raise InputError(
                f"bundle {bundle.path.name}: was built with encoder {said['encoder']} of fingerprint "
                f"{said['encoder_fingerprint'][:12]}, found {found[:12]} in {folder}; "
                "install that encoder, or run `cascade run` to build anew"
            )
        return cls(
            bundle=bundle,
            system=said["system"],
            depth=said["depth"],
            candidates=said["candidates"],
            bm25=BM25.load(bundle.path / "lexical"),
            dense=build.dense_index().load(bundle.path / "dense"),
            encoder=build.encoder(said["encoder"]),
            fusion=Fusion.load(bundle.path / "fusion.json"),
            docs=pl.read_parquet(bundle.path / "docs.parquet"),
            ranker=build.load_ranker(bundle.path / "ranker") if said["learned"] else None,
        )


class Searcher:
    """A bundle, opened once and searched many times.

    `open` verifies every file before any native library reads one. assemble: the features' function, for trials of
    another one.
    """

    def __init__(self, bundle: Bundle, *, assemble: Assemble = assemble) -> None:
        self._parts = Parts.of(bundle)
        self._assemble = assemble

    @classmethod
    def open(cls, home_or_bundle: Path) -> Self:
        """Open the current bundle of a home folder, or a bundle by its own folder."""
        return cls(open_bundle(home_or_bundle))

    @property
    def bundle(self) -> Bundle:
        return self._parts.bundle

    @property
    def system(self) -> str:
        return self._parts.system

    def search(
        self, queries: pl.DataFrame, *, k: int = 10, explain: bool = False, log: RequestLog | None = None
    ) -> pl.DataFrame:
        """The k best documents of every query (QUERIES).

        Returns qid, rank, docid, title, text, score, and the scores `bm25`, `dense`, `fused` of the earlier stages
        (null where a stage did not return the document). With `explain`, a column `contributions`: a list of
        {feature, value, contribution} that with the ranker's base value sums to the score, largest first; it needs a
        learned system. With `log`, every query is kept there as one request, with the features of what is shown.

        Raises InputError for k below 1 and for a query that `retrieval.queries.check_query` refuses. A k beyond the
        corpus is warned about and gives all there is.
        """
        check_asked(queries, k)
        ranker, docs = self._parts.ranker, self._parts.docs
        if k > docs.height:
            logger.warning("k is %d, the corpus holds %d documents: all are returned", k, docs.height)
            k = docs.height
        if explain and ranker is None:
            raise InputError(f"the current system is `{self.system}`, which has no features to explain")
        found, run = self._rank(queries, k)
        if log is not None:
            self._keep(log, queries, k, found, run)
        if explain and ranker is not None:
            reasons = _contributions(ranker, found, run)
            run = run.join(reasons, on=["qid", "docid"], how="left", maintain_order="left")
        scores = found.select(
            "qid", "docid", *(pl.col(f"{stage}_score").alias(stage) for stage in (*RETRIEVERS, FUSED))
        )
        shown = run.join(scores, on=["qid", "docid"], how="left", maintain_order="left")
        shown = shown.join(docs, on="docid", how="left", maintain_order="left")
        first = ["qid", "rank", "docid", "title", "text", "score", *RETRIEVERS, FUSED]
        return shown.select(*first, *(["contributions"] if explain else []))

    def _rank(self, queries: pl.DataFrame, k: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """(the candidates, with features where a ranker is to be asked; the RUN of the k best)."""
        parts = self._parts
        vectors = parts.encoder.queries(queries["query"].to_list())
        depth, number = self._bounds(k)
        runs = {
            "bm25": parts.bm25.search(queries, depth),
            "dense": parts.dense.search(queries["qid"], vectors, depth),
        }
        runs[FUSED] = parts.fusion.fuse(runs, depth)
        found = candidates(runs, number)
        if parts.ranker is None:
            return found, runs[parts.system].filter(pl.col("rank") <= k)
        features = self._assemble(
            found,
            queries,
            lexicon=parts.bm25.lexicon,
            query_vectors=vectors,
            document_vectors=parts.dense.vectors,
            names=parts.ranker.feature_names,
        )
        run = reranked(features, parts.ranker.score(features))
        return found.join(features, on=["qid", "docid"], maintain_order="left"), run.filter(pl.col("rank") <= k)

    def _bounds(self, k: int) -> tuple[int, int]:
        """(depth of the stages, candidates): as published, or as many as are to be shown."""
        depth = max(self._parts.depth, k)
        return depth, depth if self._parts.ranker is None else max(self._parts.candidates, k)

    @cached_property
    def _origin(self) -> Origin:
        names = self._parts.ranker.feature_names if self._parts.ranker is not None else ()
        return Origin(self.bundle.name, self.bundle.fingerprint, self.system, tuple(names), environment())

    def _keep(self, log: RequestLog, queries: pl.DataFrame, k: int, found: pl.DataFrame, run: pl.DataFrame) -> None:
        """Log each query with what was shown for it, an empty list too."""
        depth, number = self._bounds(k)
        stages = [pl.col(f"{stage}_score").alias(f"stage_{stage}") for stage in (*RETRIEVERS, FUSED)]
        values = found.select("qid", "docid", *stages, *self._origin.features)
        shown = run.join(values, on=["qid", "docid"], how="left", maintain_order="left")
        for query in queries.select(*QUERIES).iter_rows(named=True):
            mine = shown if queries.height == 1 else shown.filter(pl.col("qid") == query["qid"])
            log.append(self._origin, query, {"k": k, "depth": depth, "candidates": number}, mine)


_CONTRIBUTIONS = pl.List(pl.Struct({"feature": pl.String, "value": pl.Float64, "contribution": pl.Float64}))


def check_asked(queries: pl.DataFrame, k: int) -> None:
    """Raise InputError for queries that may not be asked (see `retrieval.queries`) and for k below 1."""
    check(queries, QUERIES, "queries")
    check_queries(queries["query"], lambda row: f"query {queries['qid'][row]}")
    if k < 1:
        raise InputError(f"k must be at least 1; found {k}")


def _contributions(ranker: Ranker, found: pl.DataFrame, run: pl.DataFrame) -> pl.DataFrame:
    """qid, docid and `contributions` of what `run` shows, largest absolute contribution first.

    All that was found is explained, as it was scored: a document's score may depend on its rivals.
    """
    names = list(ranker.feature_names)
    reasons = np.asarray(ranker.explain(found))[:, :-1]
    features = found.with_row_index("row").join(run, on=["qid", "docid"], how="semi", maintain_order="left")
    parts = reasons[features["row"].to_numpy()]
    values = features.select(names).to_numpy()
    order = np.argsort(-np.abs(parts), axis=1, kind="stable")
    rows = [
        [{"feature": names[c], "value": float(values[r, c]), "contribution": float(parts[r, c])} for c in order[r]]
        for r in range(features.height)
    ]
    return features.select("qid", "docid").with_columns(contributions=pl.Series(rows, dtype=_CONTRIBUTIONS))
