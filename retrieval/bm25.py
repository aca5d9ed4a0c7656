"""BM25 over a Lexicon: bm25s holds the scored matrix, the analysis and the row ↔ docid map are ours."""

import logging
from pathlib import Path
from typing import Self

import bm25s
import numpy as np
import polars as pl
from numpy.typing import NDArray

from retrieval.frames import QUERIES, check
from retrieval.lexicon import UNKNOWN, Lexicon
from retrieval.topk import as_run, top_rows

logging.getLogger("bm25s").setLevel(logging.WARNING)  # on import it sets itself to DEBUG


class BM25:
    """Lucene's BM25 over title and text as one field.

    k1, b: term-frequency saturation and length normalisation (Robertson & Zaragoza 2009, eq. 3.15; Lucene's idf, and
    no (k1 + 1) factor, which changes no order).
    """

    def __init__(self, lexicon: Lexicon, index: bm25s.BM25 | None) -> None:
        self.lexicon = lexicon
        self._index = index  # None: the corpus holds not one term

    @classmethod
    def build(cls, lexicon: Lexicon, *, k1: float = 1.2, b: float = 0.75) -> Self:
        if not lexicon.vocabulary:
            return cls(lexicon, None)
        whole = lexicon.whole
        rows = [row.tolist() for row in np.split(whole.ids, whole.offsets[1:-1])]
        index = bm25s.BM25(method="lucene", k1=k1, b=b)
        index.index((rows, lexicon.vocabulary), show_progress=False, create_empty_token=False)
        return cls(lexicon, index)

    def scores(self, terms: NDArray[np.int32]) -> NDArray[np.float32]:
        """The score of every document for one query's term ids (unknown ones are ignored): float32 [documents]."""
        known = terms[terms != UNKNOWN]
        if self._index is None or not len(known):
            return np.zeros(len(self.lexicon.docids), dtype=np.float32)
        scores: NDArray[np.float32] = self._index.get_scores_from_ids(known)
        return scores

    def search(self, queries: pl.DataFrame, depth: int) -> pl.DataFrame:
        """The `depth` best documents of every query as a RUN; documents that share no term with it are left out."""
        check(queries, QUERIES, "queries")
        encoded = self.lexicon.encode(queries["query"].to_list())
        found = []
        for terms in np.split(encoded.ids, encoded.offsets[1:-1]):
            scores = self.scores(terms)
            rows = top_rows(scores, depth)
            rows = rows[scores[rows] > 0]
            found.append((rows, scores[rows]))
        return as_run(queries["qid"], self.lexicon.docids, found, depth)

    def save(self, folder: Path) -> None:
        self.lexicon.save(folder / "lexicon")
        if self._index is not None:
            self._index.save(str(folder / "bm25s"), show_progress=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        index = None
        if (folder / "bm25s").exists():
            index = bm25s.BM25.load(str(folder / "bm25s"), show_progress=False)
        return cls(Lexicon.load(folder / "lexicon"), index)
