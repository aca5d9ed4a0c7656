"""The public entry: order, invariance, batches, edges and refusals."""

import time
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from polars.testing import assert_frame_equal

from features.assemble import STAGES, assemble
from features.registry import FEATURES, describe
from retrieval.analysis import Analyzer
from retrieval.errors import InputError
from retrieval.lexicon import Lexicon

D = 8
# What compares a pair with the other candidates of its query, as their docstrings say.
WITHIN_QUERY = {
    *("bm25_minmax", "bm25_zscore", "bm25_of_top", "cosine_minmax", "cosine_zscore", "cosine_below_top"),
    *("weaker_signal", "stronger_signal", "mean_signal", "both_signals", "feedback"),
    *(f"{stage}_stage_below_top" for stage in STAGES),
}
MAY_MISS = {f"{stage}_stage_{what}" for stage in STAGES for what in ("score", "below_top")}
FROM_VECTORS = {
    *("centrality", "cosine", "cosine_minmax", "cosine_zscore", "cosine_below_top"),
    *("weaker_signal", "stronger_signal", "mean_signal", "both_signals", "feedback"),
}


class Corpus:
    """Sixty documents of Zipfian words (some without title, one without anything) and twelve queries, with vectors."""

    def __init__(self, documents: int = 60, queries: int = 12, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        share = 1 / np.arange(1, 201)

        def draw(size: int) -> str:
            return " ".join(f"w{term}" for term in rng.choice(200, size, p=share / share.sum()))

        titles = ["", *(draw(int(rng.integers(0, 5))) for _ in range(documents - 1))]
        texts = ["", *(draw(int(rng.integers(3, 80))) for _ in range(documents - 1))]
        docs = pl.DataFrame({"docid": [f"d.{i}" for i in range(documents)], "title": titles, "text": texts})
        self.lexicon = Lexicon.build(docs, Analyzer(language="none"))
        asked = ["!!", "neverseen", *(draw(int(rng.integers(1, 9))) for _ in range(queries - 2))]
        self.queries = pl.DataFrame({"qid": [f"q{i}" for i in range(queries)], "query": asked})
        self.query_vectors = self.unit(rng.normal(size=(queries, D)))
        self.document_vectors = self.unit(rng.normal(size=(documents, D)))

    @staticmethod
    def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
        units: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return units

    def candidates(self, seed: int, keep: float = 0.4) -> pl.DataFrame:
        """A random part of all pairs in random order; every stage returned about two thirds of them."""
        rng = np.random.default_rng(seed)
        pairs = self.queries.select("qid").join(pl.DataFrame({"docid": self.lexicon.docids}), how="cross")
        pairs = pairs.filter(pl.Series(rng.random(pairs.height) < keep)).sample(fraction=1, shuffle=True, seed=seed)
        for stage in STAGES:
            returned = pl.Series(rng.random(pairs.height) < 0.66)
            score = pl.Series(rng.normal(size=pairs.height), dtype=pl.Float32)
            rank = pl.Series(rng.integers(1, 100, pairs.height), dtype=pl.Int32)
            pairs = pairs.with_columns(
                pl.when(returned).then(score).alias(f"{stage}_score"),
                pl.when(returned).then(rank).alias(f"{stage}_rank"),
            )
        return pairs

    def assemble(self, candidates: pl.DataFrame, **changed: Any) -> pl.DataFrame:
        given: dict[str, Any] = {
            "queries": self.queries,
            "lexicon": self.lexicon,
            "query_vectors": self.query_vectors,
            "document_vectors": self.document_vectors,
        } | changed
        return assemble(candidates, **given)


CORPUS = Corpus()


def test_columns_are_the_registry_in_order_and_rows_are_the_candidates() -> None:
    candidates = CORPUS.candidates(0)
    features = CORPUS.assemble(candidates)
    assert features.columns == ["qid", "docid", *FEATURES]
    assert len(FEATURES) >= 25
    assert set(features.dtypes[2:]) == {pl.Float32}
    assert_frame_equal(features.select("qid", "docid"), candidates.select("qid", "docid"))


def test_names_choose_the_columns_and_their_order() -> None:
    candidates = CORPUS.candidates(0)
    names = ["cosine", "bm25_whole", "overlap_title"]
    chosen = CORPUS.assemble(candidates, names=names)
    assert chosen.columns == ["qid", "docid", *names]
    assert_frame_equal(chosen, CORPUS.assemble(candidates).select("qid", "docid", *names))


def test_every_feature_has_a_line_about_it() -> None:
    assert [name for name, _ in describe()] == list(FEATURES)
    assert all(10 < len(about) <= 160 for _, about in describe())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), keep=st.floats(0.01, 1))
def test_the_order_of_the_candidates_does_not_matter(seed: int, keep: float) -> None:
    candidates = CORPUS.candidates(seed, keep)
    shuffled = candidates.sample(fraction=1, shuffle=True, seed=seed + 1)
    back = candidates.select("qid", "docid").join(
        CORPUS.assemble(shuffled), on=["qid", "docid"], how="left", maintain_order="left"
    )
    assert_frame_equal(back, CORPUS.assemble(candidates), check_exact=True)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), keep=st.floats(0.01, 0.9))
def test_only_the_features_that_say_so_depend_on_the_other_candidates(seed: int, keep: float) -> None:
    candidates = CORPUS.candidates(seed, 1.0)
    some = candidates.filter(pl.Series(np.random.default_rng(seed).random(candidates.height) < keep))
    names = [name for name in FEATURES if name not in WITHIN_QUERY]
    among_all = CORPUS.assemble(candidates, names=names)
    alone = CORPUS.assemble(some, names=names)
    kept = some.select("qid", "docid").join(among_all, on=["qid", "docid"], how="left", maintain_order="left")
    assert_frame_equal(alone, kept, check_exact=True)


@pytest.mark.parametrize("batch", [1, 5_000, 20_000])
def test_batches_change_no_figure(batch: int) -> None:
    candidates = CORPUS.candidates(5)
    assert_frame_equal(
        CORPUS.assemble(candidates, batch=batch), CORPUS.assemble(candidates, batch=10**9), check_exact=True
    )


def test_nan_only_where_a_stage_missed_the_document_and_never_infinity() -> None:
    candidates = CORPUS.candidates(1, 1.0)
    features = CORPUS.assemble(candidates)
    figures = features.drop("qid", "docid")
    assert not figures.select(pl.all().is_infinite().any()).row(0).count(True)
    for name in FEATURES:
        expected = candidates[f"{name.split('_')[0]}_score"].is_null() if name in MAY_MISS else pl.Series([False])
        assert (figures[name].is_nan() == expected).all(), name


def test_without_vectors_what_is_made_from_them_is_missing() -> None:
    candidates = CORPUS.candidates(2)
    features = CORPUS.assemble(candidates, query_vectors=None, document_vectors=None)
    words = [name for name in FEATURES if name not in FROM_VECTORS]
    assert features.select(pl.col(*FROM_VECTORS).is_nan().all()).row(0) == (True,) * len(FROM_VECTORS)
    assert_frame_equal(features.select(words), CORPUS.assemble(candidates).select(words), check_exact=True)


def test_the_dense_features_are_those_of_the_definition() -> None:
    candidates = CORPUS.candidates(4)
    features = CORPUS.assemble(candidates)
    row = dict(zip(CORPUS.lexicon.docids, CORPUS.document_vectors.astype(np.float64), strict=True))
    ask = dict(zip(CORPUS.queries["qid"], CORPUS.query_vectors.astype(np.float64), strict=True))
    centroid = CORPUS.document_vectors.astype(np.float64).mean(axis=0)
    for of_query in features.partition_by("qid"):
        vectors = np.stack([row[docid] for docid in of_query["docid"]])
        cosine = vectors @ ask[of_query["qid"][0]]
        bm25 = of_query["bm25_whole"].to_numpy().astype(np.float64)
        a, b = ((v - v.min()) / np.ptp(v) if np.ptp(v) else 0 * v for v in (bm25, cosine))
        # Ties (queries of unknown words) go by document row, which is the number in the docid.
        number = np.array([int(docid[2:]) for docid in of_query["docid"]])
        best = np.lexsort((number, -(a + b)))[:3]
        near = [np.mean([vectors[i] @ vectors[j] for j in best if j != i]) for i in range(len(vectors))]
        spread = bm25.std()
        expected = {
            "cosine": cosine,
            "centrality": vectors @ centroid,
            "cosine_minmax": b,
            "cosine_zscore": (cosine - cosine.mean()) / cosine.std(),
            "cosine_below_top": cosine.max() - cosine,
            "bm25_minmax": a,
            "bm25_zscore": (bm25 - bm25.mean()) / spread if spread else 0 * bm25,
            "bm25_of_top": bm25 / bm25.max() if bm25.max() else 0 * bm25,
            "weaker_signal": np.minimum(a, b),
            "stronger_signal": np.maximum(a, b),
            "mean_signal": (a + b) / 2,
            "both_signals": a * b,
            "feedback": near,
        }
        for name, values in expected.items():
            np.testing.assert_allclose(of_query[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_stage_features() -> None:
    stages = {"bm25_score": [7.5, None, 5.0], "bm25_rank": [1, None, 2], "dense_score": [0.25, 0.5, None]}
    stages |= {"dense_rank": [4, 1, None], "fused_score": [None] * 3, "fused_rank": [None] * 3}
    schema = {name: pl.Float32 if name.endswith("score") else pl.Int32 for name in stages}
    candidates = pl.DataFrame({"qid": ["q3"] * 3, "docid": ["d.9", "d.2", "d.5"]}).hstack(
        pl.DataFrame(stages, schema=schema)
    )
    features = CORPUS.assemble(candidates)

    def column(name: str) -> list[float | None]:
        return features[name].fill_nan(None).to_list()

    assert column("bm25_stage_score") == [7.5, None, 5.0]
    assert column("bm25_stage_below_top") == [0.0, None, 2.5]
    assert column("bm25_stage_reciprocal_rank") == [1.0, 0.0, 0.5]
    assert column("dense_stage_below_top") == [0.25, 0.0, None]
    assert column("dense_stage_reciprocal_rank") == [0.25, 1.0, 0.0]
    assert column("fused_stage_below_top") == [None] * 3
    assert column("fused_stage_reciprocal_rank") == [0.0] * 3
    assert column("stages_found") == [2.0, 1.0, 1.0]


def test_a_lone_candidate_has_nothing_to_be_compared_with() -> None:
    features = CORPUS.assemble(CORPUS.candidates(6).unique("qid"))
    for name in ("bm25_minmax", "bm25_zscore", "cosine_minmax", "cosine_zscore", "cosine_below_top", "feedback"):
        assert features[name].to_list() == [0.0] * features.height, name


@pytest.mark.parametrize("copies", [2, 3, 10, 49, 100, 333])
def test_equal_candidates_deviate_by_nothing_not_by_a_rounding_error(copies: int) -> None:
    docids = [f"copy.{i}" for i in range(copies)]
    docs = pl.DataFrame({"docid": docids}).with_columns(title=pl.lit("red"), text=pl.lit("one fox ran"))
    unseen = {f"{stage}_score": pl.lit(None, pl.Float32) for stage in STAGES}
    unseen |= {f"{stage}_rank": pl.lit(None, pl.Int32) for stage in STAGES}
    vector = Corpus.unit(np.arange(1.0, D + 1)[None, :])
    features = assemble(
        docs.select(pl.lit("q").alias("qid"), "docid").with_columns(**unseen),
        pl.DataFrame({"qid": ["q"], "query": ["fox"]}),
        lexicon=Lexicon.build(docs, Analyzer(language="none")),
        query_vectors=vector[:, ::-1],
        document_vectors=np.repeat(vector, copies, axis=0),
    )
    for name in ("bm25_minmax", "bm25_zscore", "cosine_minmax", "cosine_zscore"):
        assert features[name].to_list() == [0.0] * copies, name


def test_no_candidates_give_no_rows() -> None:
    features = CORPUS.assemble(CORPUS.candidates(0).clear())
    assert features.shape == (0, 2 + len(FEATURES))
    assert set(features.dtypes[2:]) == {pl.Float32}


def test_a_corpus_without_a_word() -> None:
    docs = pl.DataFrame({"docid": ["a", "b"], "title": ["", "…"], "text": ["", ""]})
    candidates = CORPUS.candidates(0).head(2).with_columns(qid=pl.lit("q"), docid=pl.Series(["a", "b"]))
    features = assemble(
        candidates,
        pl.DataFrame({"qid": ["q"], "query": ["lost words"]}),
        lexicon=Lexicon.build(docs, Analyzer()),
        query_vectors=None,
        document_vectors=None,
    )
    words = [name for name in FEATURES if "stage" not in name and name not in FROM_VECTORS]
    assert features.select(pl.col(words).is_finite().all()).row(0) == (True,) * len(words)
    assert features["query_unknown_share"].to_list() == [1.0, 1.0]


def _first(column: str, value: Any) -> Any:
    return lambda frame: (
        frame.with_row_index("i")
        .with_columns(
            pl.when(pl.col("i") == 0).then(pl.lit(value, frame.schema[column])).otherwise(column).alias(column)
        )
        .drop("i")
    )


SEEN = CORPUS.candidates(0).filter(pl.all_horizontal(pl.all().is_not_null()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_first("docid", "zipfile.Nowhere"), "document 'zipfile.Nowhere' is not in the corpus"),
        (_first("qid", "q99"), "query 'q99' is not in the queries"),
        (_first("bm25_score", float("nan")), "bm25_score holds NaN or infinity"),
        (_first("dense_score", float("inf")), "dense_score holds NaN or infinity"),
        (_first("fused_rank", 0), "fused_rank must be 1 or more"),
        (_first("fused_rank", None), "fused_rank must be 1 or more"),
        (lambda frame: pl.concat([frame, frame.head(1)]), "appears twice for query"),
        (lambda frame: frame.drop("dense_rank"), "needs the column dense_rank of type Int32, found none"),
        (lambda frame: frame.with_columns(pl.col("bm25_score").cast(pl.Float64)), "of type Float32, found Float64"),
        (lambda frame: frame.drop("docid"), "candidates: needs the columns qid, docid"),
    ],
)
def test_bad_candidates_are_refused(change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        CORPUS.assemble(change(SEEN))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": ["bm25_whole", "pagerank"]}, "unknown feature 'pagerank'; known: bm25_title"),
        ({"names": ["cosine", "cosine"]}, "asked for twice"),
        ({"query_vectors": None}, "both or neither"),
        ({"document_vectors": CORPUS.document_vectors[1:]}, r"document vectors: needs the shape \(60, dimensions\)"),
        ({"query_vectors": CORPUS.query_vectors[:, 1:]}, "one width, found 7 and 8"),
        ({"query_vectors": CORPUS.query_vectors * np.float32("nan")}, "query vectors hold NaN"),
        ({"document_vectors": np.full_like(CORPUS.document_vectors, np.inf)}, "document vectors hold NaN or infinity"),
        (
            {"queries": pl.concat([CORPUS.queries[:11], CORPUS.queries[3:4]])},
            "qid 'q3' appears twice; ids must be distinct",
        ),
    ],
)
def test_bad_surroundings_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CORPUS.assemble(SEEN, **changed)


@pytest.mark.slow
def test_one_query_is_quick() -> None:
    """One query, 100 candidates, 6,000 documents; the bound is five times what an idle core needs."""
    corpus = Corpus(documents=6_000, queries=3)
    candidates = corpus.candidates(0, 1.0).filter(qid="q2").head(100)
    asked = {"queries": corpus.queries[2:], "query_vectors": corpus.query_vectors[2:]}
    corpus.assemble(candidates, **asked)
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        corpus.assemble(candidates, **asked)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.020
