"""Dense retrieval: unit vectors in FAISS. This is the one module that imports faiss."""

from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
import polars as pl
from numpy.typing import NDArray

from retrieval.errors import InputError
from retrieval.topk import as_run

_GPU_DEPTH = 2048  # FAISS's own limit on a GPU
_MARGIN = 64
_ROUNDING = 2e-6
"""Ten times what FAISS's several ways to an inner product were seen to differ by on unit vectors."""


def unit(vectors: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """`vectors` as contiguous float32 rows of length 1. Raises InputError for another shape, NaN or infinity."""
    if vectors.ndim != 2:
        raise InputError(f"{name}: vectors must be a matrix [rows, dimensions]; found the shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise InputError(f"{name}: the vector of row {row} holds NaN or infinity")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)


class DenseIndex:
    """Exact inner-product search (cosine, since rows have unit length), on the GPU when FAISS sees one.

    docids: String series; its position is the row in FAISS. FAISS itself never sees a docid.
    """

    def __init__(self, index: Any, docids: pl.Series) -> None:
        self.docids = docids
        self._host = index
        self._index = faiss.index_cpu_to_all_gpus(index) if _gpus() else index

    @classmethod
    def build(cls, vectors: NDArray[np.float32], docids: pl.Series) -> Self:
        """vectors: float32 [documents, D], aligned with `docids`."""
        if len(vectors) != len(docids):
            raise InputError(f"dense index: {len(vectors)} vectors for {len(docids)} documents")
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(unit(vectors, "documents"))
        return cls(index, docids)

    @property
    def dimension(self) -> int:
        return int(self._host.d)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The stored unit vectors, without a copy: float32 [documents, D]. They keep FAISS's memory alive."""
        return np.asarray(_Memory(self._host))

    def search(self, qids: pl.Series, vectors: NDArray[np.float32], depth: int) -> pl.DataFrame:
        """The `depth` nearest documents of every query as a RUN of cosines; `vectors` [queries, D] are as `qids`.

        What a query gets does not depend on the queries beside it, nor on the device: FAISS, which multiplies in one of
        several ways that round differently by the sizes of batch and corpus, only proposes; the cosines are ours.
        """
        if vectors.shape != (len(qids), self.dimension):
            raise InputError(
                f"dense search: needs query vectors of shape {(len(qids), self.dimension)}; found {vectors.shape}"
            )
        depth = min(depth, self._host.ntotal)
        wide = min(depth + _MARGIN, self._host.ntotal)
        index = self._index if wide <= _GPU_DEPTH else self._host
        queries = unit(vectors, "queries")
        stored, everything = self.vectors, np.arange(self._host.ntotal)
        found = []
        for query, scores, rows in zip(queries, *index.search(queries, wide), strict=True):
            # Where near-ties fill the margin, who is in it was decided by rounding: then every document is scored.
            sure = wide == len(everything) or scores[depth - 1] - scores[-1] > _ROUNDING
            near = rows if sure else everything
            # Row by row, the same in any company; a BLAS product's last bits depend on its shape.
            cosines = np.einsum("kd,d->k", stored[near] if sure else stored, query)
            found.append((near, np.minimum(cosines, 1.0)))  # rounding puts a document's cosine with itself above 1
        return as_run(qids, self.docids, found, depth)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self._host, str(folder / "vectors.faiss"))
        pl.DataFrame({"docid": self.docids}).write_parquet(folder / "docids.parquet")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an index that `save` wrote. FAISS loads many damaged files silently: verify the bytes first."""
        docids = pl.read_parquet(folder / "docids.parquet")["docid"]
        index = faiss.read_index(str(folder / "vectors.faiss"))
        if index.ntotal != len(docids):
            raise InputError(f"{folder}: {index.ntotal} vectors for {len(docids)} documents")
        return cls(index, docids)


class _Memory:
    """A flat index's vectors for numpy, which holds on to this object, and so to the index that owns the memory."""

    def __init__(self, index: Any) -> None:
        self._index = index
        flat = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
        self.__array_interface__ = flat.reshape(index.ntotal, index.d).__array_interface__


def _gpus() -> int:
    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0
