"""The analysed corpus: every document's term ids in order, by field, with the statistics that lexical scoring needs."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from retrieval.analysis import Analyzer
from retrieval.frames import DOCS, check

UNKNOWN = -1


@dataclass(frozen=True)
class Ragged:
    """Rows of term ids of unequal length, stored flat: row i is `ids[offsets[i]:offsets[i + 1]]`.

    ids: int32 [tokens]; offsets: int64 [rows + 1].
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: list[list[int]]) -> Self:
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        ids = np.fromiter((term for row in rows for term in row), dtype=np.int32, count=int(offsets[-1]))
        return cls(ids, offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [rows]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Lexicon:
    """The analysed corpus, the ground under BM25 and every lexical feature.

    docids: String series; its position is the document's `row`.
    vocabulary: term → id, ids dense from 0 in order of first occurrence.
    title, text: the two fields' term ids, a row a document.
    """

    analyzer: Analyzer
    docids: pl.Series
    vocabulary: dict[str, int]
    title: Ragged
    text: Ragged

    @classmethod
    def build(cls, docs: pl.DataFrame, analyzer: Analyzer) -> Self:
        """Analyse a DOCS frame."""
        check(docs, DOCS, "documents")
        vocabulary: dict[str, int] = {}
        fields = [
            Ragged.of(
                [
                    [vocabulary.setdefault(term, len(vocabulary)) for term in row]
                    for row in analyzer.analyze(docs[field])
                ]
            )
            for field in ("title", "text")
        ]
        return cls(analyzer, docs["docid"], vocabulary, *fields)

    @cached_property
    def whole(self) -> Ragged:
        """Title then text as one field."""
        offsets = self.title.offsets + self.text.offsets
        ids = np.empty(len(self.title.ids) + len(self.text.ids), dtype=np.int32)
        starts = offsets[:-1]
        for field, shift in ((self.title, 0), (self.text, self.title.lengths)):
            lengths = field.lengths
            ids[np.arange(len(field.ids)) + np.repeat(starts + shift - field.offsets[:-1], lengths)] = field.ids
        return Ragged(ids, offsets)

    @cached_property
    def document_frequency(self) -> NDArray[np.int32]:
        """Documents that hold each term in title or text: int32 [terms]."""
        rows = np.repeat(np.arange(len(self.whole)), self.whole.lengths)
        pairs = np.unique(rows * np.int64(max(len(self.vocabulary), 1)) + self.whole.ids)
        return np.bincount(pairs % max(len(self.vocabulary), 1), minlength=len(self.vocabulary)).astype(np.int32)

    @cached_property
    def idf(self) -> NDArray[np.float32]:
        """Lucene's BM25 inverse document frequency, ln(1 + (N − df + ½) / (df + ½)): float32 [terms]."""
        df = self.document_frequency
        return np.log1p((len(self.docids) - df + 0.5) / (df + 0.5)).astype(np.float32)

    def encode(self, texts: list[str]) -> Ragged:
        """Query texts as term ids; a term that the corpus does not hold is UNKNOWN (−1)."""
        return Ragged.of([[self.vocabulary.get(term, UNKNOWN) for term in row] for row in self.analyzer.analyze(texts)])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "analysis.json").write_text(json.dumps(self.analyzer.as_dict(), indent=1))
        (folder / "vocabulary.json").write_text(json.dumps(list(self.vocabulary), ensure_ascii=False))
        pl.DataFrame({"docid": self.docids}).write_parquet(folder / "docids.parquet")
        for name, field in (("title", self.title), ("text", self.text)):
            np.save(folder / f"{name}_ids.npy", field.ids)
            np.save(folder / f"{name}_offsets.npy", field.offsets)

    @classmethod
    def load(cls, folder: Path) -> Self:
        title, text = (
            Ragged(*(np.load(folder / f"{name}_{part}.npy", allow_pickle=False) for part in ("ids", "offsets")))
            for name in ("title", "text")
        )
        terms = json.loads((folder / "vocabulary.json").read_text())
        return cls(
            analyzer=Analyzer(**json.loads((folder / "analysis.json").read_text())),
            docids=pl.read_parquet(folder / "docids.parquet")["docid"],
            vocabulary={term: at for at, term in enumerate(terms)},
            title=title,
            text=text,
        )
