"""The main job's stages, each kept in the cache under the content of what it read."""

import io
import json
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.assemble import assemble
from features.registry import FEATURES
from pipeline import build
from pipeline.compose import FUSED, RETRIEVERS, candidates, document_texts
from pipeline.config import Settings
from pipeline.stages import StageOutput, Stages
from retrieval import checkpoint, fusion
from retrieval.analysis import Analyzer
from retrieval.bm25 import BM25
from retrieval.datasets import Dataset
from retrieval.frames import DOCS, QRELS, QUERIES
from retrieval.lexicon import Lexicon

Progress = Callable[[str, int, int], None]
"""`progress(stage, done, total)`, called as a long stage advances."""

VECTORS = "vectors.npy"
LEXICAL_CODE = ("retrieval/analysis.py", "retrieval/lexicon.py", "retrieval/bm25.py")
ENCODER_CODE = ("retrieval/encoder.py",)
DENSE_CODE = ("retrieval/dense.py",)
SEARCH_CODE = ("retrieval/topk.py", "retrieval/frames.py")


class MainJob:
    """Everything up to the candidates' features, for one data set and settings.

    Each property runs its stage, or takes it from the cache, when it is first read. Queries are those that some split
    judges.
    """

    def __init__(self, dataset: Dataset, settings: Settings, *, stages: Stages, progress: Progress) -> None:
        self.dataset = dataset
        self.settings = settings
        self.stages = stages
        self.progress = progress
        judged = pl.concat([qrels.select("qid") for qrels in dataset.qrels.values()]).unique()
        self.queries = dataset.queries.join(judged, on="qid", how="semi", maintain_order="left").select(*QUERIES)
        self.docs_key = fingerprint_of(dataset.docs.select(*DOCS))
        self._queries_key = fingerprint_of(self.queries)

    @cached_property
    def lexical(self) -> StageOutput:
        """The lexicon and the BM25 index."""
        s = self.settings

        def make(folder: Path) -> None:
            self.progress("index terms", 0, 1)
            lexicon = Lexicon.build(self.dataset.docs, Analyzer(language=s.language))
            BM25.build(lexicon, k1=s.k1, b=s.b).save(folder)
            self.progress("index terms", 1, 1)

        return self.stages.run(
            "lexical",
            inputs={"docs": self.docs_key},
            settings={"language": s.language, "k1": s.k1, "b": s.b, **versions("bm25s", "PyStemmer")},
            code=LEXICAL_CODE,
            make=make,
        )

    @cached_property
    def encoder_key(self) -> str:
        return checkpoint.fingerprint(checkpoint.locate(self.settings.encoder))

    @cached_property
    def _encoder(self) -> Any:
        return build.encoder(self.settings.encoder)

    @cached_property
    def document_vectors(self) -> StageOutput:
        """The slowest stage by far, so it depends on nothing but the texts and the encoder."""

        def make(folder: Path) -> None:
            texts = document_texts(self.dataset.docs)
            self._encoder.warn_if_foreign(texts)
            vectors = self._encoder.documents(texts, progress=lambda d, n: self.progress("encode documents", d, n))
            np.save(folder / VECTORS, vectors)

        return self.stages.run(
            "document-vectors",
            inputs={"docs": self.docs_key, "encoder": self.encoder_key},
            settings=versions("torch", "sentence-transformers"),
            code=ENCODER_CODE,
            make=make,
        )

    @cached_property
    def dense(self) -> StageOutput:
        """The documents' vectors in FAISS."""

        def make(folder: Path) -> None:
            vectors = read_vectors(self.document_vectors)
            build.dense_index().build(vectors, self.dataset.docs["docid"]).save(folder)

        return self.stages.run(
            "dense",
            inputs={"vectors": self.document_vectors.key, "docs": self.docs_key},
            settings={},
            code=DENSE_CODE,
            make=make,
        )

    @cached_property
    def query_vectors(self) -> StageOutput:
        def make(folder: Path) -> None:
            self.progress("encode queries", 0, self.queries.height)
            start = time.perf_counter()
            np.save(folder / VECTORS, self._encoder.queries(self.queries["query"].to_list()))
            write_timing(folder, self._ms_since(start))
            self.progress("encode queries", self.queries.height, self.queries.height)

        return self.stages.run(
            "query-vectors",
            inputs={"queries": self._queries_key, "encoder": self.encoder_key},
            settings=versions("torch", "sentence-transformers"),
            code=ENCODER_CODE,
            make=make,
        )

    @cached_property
    def bm25_run(self) -> StageOutput:
        def make(folder: Path) -> None:
            index = BM25.load(self.lexical.path)
            start = time.perf_counter()
            index.search(self.queries, self.settings.depth).write_parquet(folder / "run.parquet")
            write_timing(folder, self._ms_since(start))

        return self.stages.run(
            "bm25",
            inputs={"lexical": self.lexical.key, "queries": self._queries_key},
            settings={"depth": self.settings.depth},
            code=(*LEXICAL_CODE, *SEARCH_CODE),
            make=make,
        )

    @cached_property
    def dense_run(self) -> StageOutput:
        def make(folder: Path) -> None:
            index = build.dense_index().load(self.dense.path)
            vectors = read_vectors(self.query_vectors)
            start = time.perf_counter()
            index.search(self.queries["qid"], vectors, self.settings.depth).write_parquet(folder / "run.parquet")
            write_timing(folder, self._ms_since(start) + read_timing(self.query_vectors))

        return self.stages.run(
            "dense-run",
            inputs={"dense": self.dense.key, "queries": self.query_vectors.key},
            settings={"depth": self.settings.depth},
            code=(*DENSE_CODE, *SEARCH_CODE),
            make=make,
        )

    @cached_property
    def fused_run(self) -> StageOutput:
        """Fused with weights fitted on the validation queries; evenly where there are none."""
        valid = self.dataset.qrels.get("valid")

        def make(folder: Path) -> None:
            self.progress("fuse", 0, 1)
            runs = {stage: read_run(output) for stage, output in self._retrieved.items()}
            if valid is None:
                fitted = fusion.even(list(RETRIEVERS))
            else:
                judged = {stage: run.join(valid, on="qid", how="semi") for stage, run in runs.items()}
                fitted = fusion.fit(judged, valid)
            fitted.save(folder / "fusion.json")
            start = time.perf_counter()
            fitted.fuse(runs, self.settings.depth).write_parquet(folder / "run.parquet")
            write_timing(folder, self._ms_since(start))
            self.progress("fuse", 1, 1)

        return self.stages.run(
            FUSED,
            inputs={
                **{stage: output.key for stage, output in self._retrieved.items()},
                "valid": fingerprint_of(valid.select(*QRELS)) if valid is not None else "none",
            },
            settings={"depth": self.settings.depth},
            code=("retrieval/fusion.py", "retrieval/metrics.py", *SEARCH_CODE),
            make=make,
        )

    def _ms_since(self, start: float) -> float:
        """Milliseconds a query since `start`."""
        return 1000 * (time.perf_counter() - start) / max(self.queries.height, 1)

    @property
    def _retrieved(self) -> dict[str, StageOutput]:
        return {"bm25": self.bm25_run, "dense": self.dense_run}

    @property
    def runs(self) -> dict[str, StageOutput]:
        """The earlier stages' outputs by system name."""
        return {**self._retrieved, FUSED: self.fused_run}

    @cached_property
    def features(self) -> StageOutput:
        """FEATURES of every query's candidates."""

        def make(folder: Path) -> None:
            self.progress("compute features", 0, 1)
            runs = {stage: read_run(output) for stage, output in self.runs.items()}
            vectors = read_vectors(self.query_vectors)
            lexicon = Lexicon.load(self.lexical.path / "lexicon")
            documents = build.dense_index().load(self.dense.path).vectors
            start = time.perf_counter()
            assemble(
                candidates(runs, self.settings.candidates),
                self.queries,
                lexicon=lexicon,
                query_vectors=vectors,
                document_vectors=documents,
            ).write_parquet(folder / "features.parquet")
            write_timing(folder, self._ms_since(start))
            self.progress("compute features", 1, 1)

        return self.stages.run(
            "features",
            inputs={
                "lexical": self.lexical.key,
                "dense": self.dense.key,
                "queries": self.query_vectors.key,
                **{stage: output.key for stage, output in self.runs.items()},
            },
            settings={"candidates": self.settings.candidates, "features": list(FEATURES)},
            code=("pipeline/compose.py", *code_of("features")),
            make=make,
        )


def fingerprint_of(frame: pl.DataFrame) -> str:
    """SHA-256 of a frame's content, row order included (a document's row is its place in every index)."""
    buffer = io.BytesIO()
    frame.rechunk().write_ipc(buffer, compat_level=pl.CompatLevel.oldest())
    return sha256(buffer.getbuffer()).hexdigest()


def read_run(output: StageOutput) -> pl.DataFrame:
    return pl.read_parquet(output.path / "run.parquet")


def read_vectors(output: StageOutput) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = np.load(output.path / VECTORS, allow_pickle=False)
    return vectors


def read_timing(output: StageOutput) -> float:
    """Milliseconds a query that the stage took when it was computed."""
    timing: Mapping[str, float] = json.loads((output.path / "timing.json").read_text())
    return timing["ms_per_query"]


def write_timing(folder: Path, ms_per_query: float) -> None:
    (folder / "timing.json").write_text(json.dumps({"ms_per_query": ms_per_query}))


def code_of(room: str) -> tuple[str, ...]:
    """Every module file of a room, for a stage's key."""
    return tuple(f"{room}/{path.name}" for path in sorted((Path(__file__).parent.parent / room).glob("*.py")))


def versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}
