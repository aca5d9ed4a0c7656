"""A bundle of thirty small documents, made without the main job, for tests of serving."""

from pathlib import Path

import numpy as np
import polars as pl

from features.assemble import assemble
from pipeline import build
from pipeline.bundle import publish
from pipeline.compose import FUSED, candidates, document_texts
from retrieval import checkpoint, fusion
from retrieval.analysis import Analyzer
from retrieval.bm25 import BM25
from retrieval.lexicon import Lexicon

DEPTH, CANDIDATES = 20, 12
THINGS = ["apple", "river", "engine", "violin", "glacier", "parrot", "copper", "orchid", "lantern", "walnut"]
KINDS = ["history of the", "how to draw a", "the price of a"]


def documents() -> pl.DataFrame:
    pairs = [(thing, kind) for thing in THINGS for kind in KINDS]
    return pl.DataFrame(
        {
            "docid": [f"d{n:02}" for n in range(len(pairs))],
            "title": [thing for thing, _ in pairs],
            "text": [
                f"All about the {kind} {thing}, " + "and more of it " * (n % 4) for n, (thing, kind) in enumerate(pairs)
            ],
        }
    )


def questions() -> pl.DataFrame:
    """Thirty queries; some share no word with any document that is not about their thing."""
    texts = [f"{kind} {thing}" for thing in THINGS for kind in KINDS]
    return pl.DataFrame({"qid": [f"q{n:02}" for n in range(len(texts))], "query": texts})


def publish_small(home: Path, *, system: str) -> Path:
    """Publish a bundle that serves `system`: a learned ranker's name, or an earlier stage's."""
    docs, queries, work = documents(), questions(), home / "work"
    lexical = BM25.build(Lexicon.build(docs, Analyzer(language="english")))
    encoder = build.encoder(checkpoint.DEFAULT_ENCODER)
    dense = build.dense_index().build(encoder.documents(document_texts(docs)), docs["docid"])
    fused = fusion.even(["bm25", "dense"])
    lexical.save(work / "lexical")
    dense.save(work / "dense")
    fused.save(work / "fusion.json")
    docs.write_parquet(work / "docs.parquet")
    files = {name: work / name for name in ("lexical", "dense", "fusion.json", "docs.parquet")}
    if learned := system not in ("bm25", "dense", FUSED):
        vectors = encoder.queries(queries["query"].to_list())
        runs = {"bm25": lexical.search(queries, DEPTH), "dense": dense.search(queries["qid"], vectors, DEPTH)}
        runs[FUSED] = fused.fuse(runs, DEPTH)
        features = assemble(
            candidates(runs, CANDIDATES),
            queries,
            lexicon=lexical.lexicon,
            query_vectors=vectors,
            document_vectors=dense.vectors,
        )
        # A document answers a query of its own number, and somewhat the others about its thing.
        asked, found = (features[column].str.slice(1).cast(pl.Int32).to_numpy() for column in ("qid", "docid"))
        relevance = np.where(asked == found, 2, np.where(asked // len(KINDS) == found // len(KINDS), 1, 0))
        judged = features.with_columns(relevance=pl.Series(relevance, dtype=pl.Int32))
        held = pl.col("qid") >= "q20"
        ranker = build.fit_ranker(
            system, judged.filter(~held), judged.filter(held), seed=0, log=lambda metrics, step: None
        )
        ranker.save(work / "ranker")
        files["ranker"] = work / "ranker"
    return publish(
        home,
        name="small",
        files=files,
        manifest={
            "system": system,
            "learned": learned,
            "encoder": checkpoint.DEFAULT_ENCODER,
            "encoder_fingerprint": checkpoint.fingerprint(checkpoint.locate(checkpoint.DEFAULT_ENCODER)),
            "depth": DEPTH,
            "candidates": CANDIDATES,
        },
    )
