"""Dense search against plain numpy."""

import gc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval.dense import DenseIndex, unit
from retrieval.errors import InputError

RNG = np.random.default_rng(0)
DOCIDS = pl.Series("docid", [f"d{n:02}" for n in range(50)])
VECTORS = RNG.normal(size=(50, 8)).astype(np.float32)
QUERIES = RNG.normal(size=(3, 8)).astype(np.float32)
QIDS = pl.Series("qid", ["a", "b", "c"])


def test_search_is_exact_cosine_whatever_the_lengths() -> None:
    run = DenseIndex.build(VECTORS * 7, DOCIDS).search(QIDS, QUERIES * 3, 5)
    cosines = unit(QUERIES, "q") @ unit(VECTORS, "d").T
    for row, qid in enumerate(QIDS):
        best = np.argsort(-cosines[row])[:5]
        found = run.filter(pl.col("qid") == qid)
        assert found["docid"].to_list() == [DOCIDS[int(at)] for at in best]
        np.testing.assert_allclose(found["score"], cosines[row][best], rtol=1e-5)


def test_no_cosine_is_above_one_and_depth_may_pass_the_corpus() -> None:
    run = DenseIndex.build(VECTORS, DOCIDS).search(QIDS, VECTORS[:3], 1000)
    assert run["score"].max() <= 1.0  # type: ignore[operator]
    assert run.height == 3 * 50
    assert run.filter(pl.col("rank") == 1)["docid"].to_list() == ["d00", "d01", "d02"]


def test_what_is_loaded_searches_as_what_was_saved(tmp_path: Path) -> None:
    built = DenseIndex.build(VECTORS, DOCIDS)
    built.save(tmp_path)
    loaded = DenseIndex.load(tmp_path)
    assert loaded.search(QIDS, QUERIES, 10).rows() == built.search(QIDS, QUERIES, 10).rows()
    np.testing.assert_array_equal(loaded.vectors, built.vectors)


def test_the_vectors_outlive_the_index_object() -> None:
    vectors = DenseIndex.build(VECTORS, DOCIDS).vectors
    gc.collect()
    np.full(VECTORS.size * 4, np.inf, dtype=np.float32)  # would land in memory that had been freed
    np.testing.assert_allclose(vectors, unit(VECTORS, "documents"))
    assert not vectors.flags.owndata


def test_bad_vectors_are_refused_by_row_and_shape() -> None:
    broken = VECTORS.copy()
    broken[7, 2] = np.nan
    with pytest.raises(InputError, match="vector of row 7 holds NaN"):
        DenseIndex.build(broken, DOCIDS)
    with pytest.raises(InputError, match="50 vectors for 49 documents"):
        DenseIndex.build(VECTORS, DOCIDS[:49])
    with pytest.raises(InputError, match=r"needs query vectors of shape \(3, 8\); found \(3, 4\)"):
        DenseIndex.build(VECTORS, DOCIDS).search(QIDS, QUERIES[:, :4], 5)


def test_a_query_finds_the_same_alone_and_among_others_bit_by_bit() -> None:
    """Past some 1e4 documents FAISS multiplies a batch by BLAS and one query by its own loops, which round apart."""
    rng = np.random.default_rng(1)
    documents = rng.normal(size=(40_000, 32)).astype(np.float32)
    index = DenseIndex.build(documents, pl.Series("docid", [f"d{n:05}" for n in range(40_000)]))
    qids = pl.Series("qid", [f"q{n:02}" for n in range(64)])
    queries = rng.normal(size=(64, 32)).astype(np.float32)
    together = index.search(qids, queries, 100)
    alone = pl.concat([index.search(qids[at : at + 1], queries[at : at + 1], 100) for at in range(64)])
    assert together.equals(alone)


def test_documents_that_tie_at_the_depth_are_cut_by_docid() -> None:
    """FAISS keeps whichever of equal documents it met first; `ranked` has one rule for ties."""
    documents = np.tile(VECTORS[:1], (500, 1))
    index = DenseIndex.build(documents, pl.Series("docid", [f"d{n:03}" for n in range(500)]))
    run = index.search(QIDS, QUERIES, 3)
    assert run["docid"].to_list() == ["d499", "d498", "d497"] * 3
