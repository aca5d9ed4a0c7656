"""Online search over a published bundle: the batch path, for queries that come one at a time."""

import logging
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import polars as pl

from features.assemble import assemble
from pipeline import build
from pipeline.bundle import Bundle, open_bundle
from pipeline.compose import FUSED, candidates, reranked
from rankers.protocol import Ranker
from retrieval import checkpoint
from retrieval.bm25 import BM25
from retrieval.errors import InputError
from retrieval.frames import QUERIES, check
from retrieval.fusion import Fusion
from retrieval.queries import check_queries

log = logging.getLogger(__name__)


class Searcher:
    """A bundle, opened once and searched many times.

    `open` verifies every file before any native library reads one.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        said = cast(dict[str, Any], bundle.metadata)
        self.system: str = said["system"]
        self._depth: int = said["depth"]
        self._candidates: int = said["candidates"]
        folder = checkpoint.locate(said["encoder"])
        found = checkpoint.fingerprint(folder)
        if found != said["encoder_fingerprint"]:
            raise InputError(
                f"bundle {bundle.path.name}: was built with encoder {said['encoder']} of fingerprint "
                f"{said['encoder_fingerprint'][:12]}, found {found[:12]} in {folder}; "
                "install that encoder, or run `cascade run` to build anew"
            )
        self._bm25 = BM25.load(bundle.path / "lexical")
        self._dense = build.dense_index().load(bundle.path / "dense")
        self._encoder = build.encoder(said["encoder"])
        self._fusion = Fusion.load(bundle.path / "fusion.json")
        self._docs = pl.read_parquet(bundle.path / "docs.parquet")
        self._ranker: Ranker | None = build.load_ranker(bundle.path / "ranker") if said["learned"] else None

    @classmethod
    def open(cls, home_or_bundle: Path) -> Self:
        """Open the current bundle of a home folder, or a bundle by its own folder."""
        return cls(open_bundle(home_or_bundle))

    def search(self, queries: pl.DataFrame, *, k: int = 10, explain: bool = False) -> pl.DataFrame:
        """The k best documents of every query (QUERIES).

        Returns qid, rank, docid, title, text, score, and the scores `bm25`, `dense`, `fused` of the earlier stages
        (null where a stage did not return the document). With `explain`, a column `contributions`: a list of
        {feature, value, contribution} that with the ranker's base value sums to the score, largest first; it needs a
        learned system.

        Raises InputError for k below 1 and for a query that `retrieval.queries.check_query` refuses. A k beyond the
        corpus is warned about and gives all there is.
        """
        check_asked(queries, k)
        if k > self._docs.height:
            log.warning("k is %d, the corpus holds %d documents: all are returned", k, self._docs.height)
            k = self._docs.height
        if explain and self._ranker is None:
            raise InputError(f"the current system is `{self.system}`, which has no features to explain")
        found, run = self._rank(queries, k)
        if explain and self._ranker is not None:
            features = found.join(run, on=["qid", "docid"], how="semi", maintain_order="left")
            reasons = _contributions(self._ranker, features)
            run = run.join(reasons, on=["qid", "docid"], how="left", maintain_order="left")
        scores = found.select(
            "qid", "docid", *(pl.col(f"{stage}_score").alias(stage) for stage in ("bm25", "dense", FUSED))
        )
        shown = run.join(scores, on=["qid", "docid"], how="left", maintain_order="left")
        shown = shown.join(self._docs, on="docid", how="left", maintain_order="left")
        first = ["qid", "rank", "docid", "title", "text", "score", "bm25", "dense", FUSED]
        return shown.select(*first, *(["contributions"] if explain else []))

    def _rank(self, queries: pl.DataFrame, k: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """(the candidates, with features where a ranker is to be asked; the RUN of the k best)."""
        vectors = self._encoder.queries(queries["query"].to_list())
        depth = max(self._depth, k)
        runs = {"bm25": self._bm25.search(queries, depth), "dense": self._dense.search(queries["qid"], vectors, depth)}
        runs[FUSED] = self._fusion.fuse(runs, depth)
        found = candidates(runs, depth if self._ranker is None else max(self._candidates, k))
        if self._ranker is None:
            return found, runs[self.system].filter(pl.col("rank") <= k)
        features = assemble(
            found,
            queries,
            lexicon=self._bm25.lexicon,
            query_vectors=vectors,
            document_vectors=self._dense.vectors,
            names=self._ranker.feature_names,
        )
        run = reranked(features, self._ranker.score(features))
        return found.join(features, on=["qid", "docid"], maintain_order="left"), run.filter(pl.col("rank") <= k)


_CONTRIBUTIONS = pl.List(pl.Struct({"feature": pl.String, "value": pl.Float64, "contribution": pl.Float64}))


def check_asked(queries: pl.DataFrame, k: int) -> None:
    """Raise InputError for queries that may not be asked (see `retrieval.queries`) and for k below 1."""
    check(queries, QUERIES, "queries")
    check_queries(queries["query"], lambda row: f"query {queries['qid'][row]}")
    if k < 1:
        raise InputError(f"k must be at least 1; found {k}")


def _contributions(ranker: Ranker, features: pl.DataFrame) -> pl.DataFrame:
    """qid, docid and `contributions`, largest absolute contribution first."""
    names = list(ranker.feature_names)
    parts = np.asarray(ranker.explain(features))[:, :-1]
    values = features.select(names).to_numpy()
    order = np.argsort(-np.abs(parts), axis=1, kind="stable")
    rows = [
        [{"feature": names[c], "value": float(values[r, c]), "contribution": float(parts[r, c])} for c in order[r]]
        for r in range(features.height)
    ]
    return features.select("qid", "docid").with_columns(contributions=pl.Series(rows, dtype=_CONTRIBUTIONS))
