"""Data sets: documents, queries and the judgements of each split, from wherever they come."""

import difflib
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from retrieval import splits
from retrieval.errors import InputError
from retrieval.frames import DOCS, QRELS, QUERIES, check

log = logging.getLogger(__name__)

_SLICE = 100_000


@dataclass(frozen=True)
class Dataset:
    """DOCS, QUERIES (all of them) and QRELS by split: `train`, `valid`, `test`, of which `test` is always there.

    `judged_split` is the source's own name of what is judged as `test`: "dev" where it has no test split.
    """

    name: str
    docs: pl.DataFrame = field(repr=False)
    queries: pl.DataFrame = field(repr=False)
    qrels: Mapping[str, pl.DataFrame] = field(repr=False)
    judged_split: str = "test"

    def __post_init__(self) -> None:
        check(self.docs, DOCS, f"{self.name}: docs")
        check(self.queries, QUERIES, f"{self.name}: queries")
        for split, frame in self.qrels.items():
            check(frame, QRELS, f"{self.name}: {split} qrels")

    def split_queries(self, split: str) -> pl.DataFrame:
        """QUERIES that `split` judges, in the order of `queries`; empty where the data set has no such split."""
        if split not in self.qrels:
            return self.queries.clear()
        return self.queries.join(self.qrels[split], on="qid", how="semi", maintain_order="left")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content: documents, queries and the judgements of every split, metadata included.

        The same whatever the data set's name and the order of its rows and columns.
        """
        digest = hashlib.sha256()
        _digest(digest, "docs", self.docs, ["docid"])
        _digest(digest, "queries", self.queries, ["qid"])
        for split in sorted(self.qrels):
            _digest(digest, split, self.qrels[split], ["qid", "docid"])
        return digest.hexdigest()

    def limit(self, n: int) -> "Dataset":
        """A first look: at most `n` documents, and only queries all of whose relevant documents remain.

        Queries are taken from the one with the fewest relevant documents up, ties in the order of a hash, each that
        fits; room that is left goes to the other documents they judge, then to any. All is returned where `n`
        documents are no fewer than there are. Judgements of documents that were never there stay.

        Raises InputError where n is below 1 or so small that no query fits.
        """
        if n < 1:
            raise InputError(f"limit: must be at least 1 document, found {n}")
        if n >= self.docs.height:
            return self
        known = pl.concat(self.qrels.values()).join(self.docs, on="docid", how="semi")
        kept, documents = _fitting(known.filter(pl.col("relevance") > 0), n)
        judged = known.filter(pl.col("qid").is_in(kept))["docid"].unique().to_list()
        for candidates in (judged, self.docs["docid"].to_list()):
            rest = sorted(set(candidates) - documents, key=lambda docid: (_shuffled(docid), docid))
            documents.update(rest[: n - len(documents)])
        if not set(kept) & set(self.qrels["test"]["qid"]):
            raise InputError(f"limit: no test query of {self.name} has all its relevant documents among {n}; use more")
        removed = self.docs.filter(~pl.col("docid").is_in(documents))
        qrels = {
            split: frame.filter(pl.col("qid").is_in(kept)).join(removed, on="docid", how="anti", maintain_order="left")
            for split, frame in self.qrels.items()
        }
        return replace(
            self,
            docs=self.docs.join(removed, on="docid", how="anti", maintain_order="left"),
            queries=self.queries.filter(pl.col("qid").is_in(kept)),
            qrels={split: frame for split, frame in qrels.items() if frame.height},
        )


def load(
    source: str | Path,
    *,
    limit: int | None = None,
    packages: bool = False,
    columns: Mapping[str, str] | None = None,
    queries: str | Path | None = None,
    qrels: str | Path | Mapping[str, str | Path] | None = None,
) -> Dataset:
    """Load `source`: `pydocs`, a BEIR folder, a corpus file with `queries` and `qrels`, or `irds:ID`.

    limit: keep at most so many documents, see `Dataset.limit`. packages: pydocs reads the installed packages too.
    columns, queries, qrels: for a corpus file, see `tables.read_own`.

    Raises InputError for a source that is none of these (with what it may have meant), for an option that does not
    apply to it, and for bad content; MissingExtra for `irds:` without the package ir-datasets.
    """
    name, path = str(source), Path(source)
    is_own = name != "pydocs" and not name.startswith("irds:") and path.is_file()
    own = {"columns": columns, "queries": queries, "qrels": qrels}
    if not is_own and (given := [option for option, value in own.items() if value is not None]):
        raise InputError(f"{name}: the option {given[0]} goes with a corpus file of your own only")
    if packages and name != "pydocs":
        raise InputError(f"{name}: the option packages goes with pydocs only")
    if is_own:
        from retrieval.tables import read_own

        if queries is None or qrels is None:
            raise InputError(f"{name}: a corpus file needs its queries and its qrels beside it: give both files")
        dataset = read_own(path, queries=Path(queries), qrels=qrels, columns=columns)
    else:
        dataset = _named(name, packages)
    return dataset if limit is None else dataset.limit(limit)


def _named(source: str, packages: bool) -> Dataset:
    if source == "pydocs":
        from retrieval.pydocs import load_pydocs

        return load_pydocs(packages=packages)
    if source.startswith("irds:"):
        from retrieval.irds import read_irds

        return read_irds(source.removeprefix("irds:"))
    path = Path(source)
    if path.is_dir():
        from retrieval.beir import read_beir

        return read_beir(path)
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    close = difflib.get_close_matches(path.name, ["pydocs", *(other.name for other in beside)], n=1)
    meant = f"; did you mean {close[0] if close[0] == 'pydocs' else path.parent / close[0]}?" if close else ""
    raise InputError(
        f"{source}: no such data set, file or folder: give pydocs, a BEIR folder, a corpus file or irds:ID{meant}"
    )


def assemble(
    name: str, docs: pl.DataFrame, queries: pl.DataFrame, qrels: Mapping[str, pl.DataFrame], *, where: str
) -> Dataset:
    """A Dataset of parts as a source has them, its splits under their own names (`splits.resolve`).

    Where there is a train split and no validation split, one is cut from it by query. Judgements of unknown queries are
    dropped; those of unknown documents stay, as part of the ideal ranking. Both are counted in a warning that names
    `where`, as are queries without judgements and a corpus of one document.

    Raises InputError where no judged query of the test split is known.
    """
    known = {split: frame.join(queries, on="qid", how="semi", maintain_order="left") for split, frame in qrels.items()}
    dropped = sum(qrels[split].height - known[split].height for split in qrels)
    if dropped:
        log.warning("%s: dropped %d judgements of queries that are not there", where, dropped)
    strange = sum(frame.join(docs, on="docid", how="anti").height for frame in known.values())
    if strange:
        log.warning("%s: %d judgements are of documents that are not in the corpus; they stay ideal", where, strange)
    roles, judged_split = splits.resolve(known, where)
    if not roles["test"].height:
        raise InputError(f"{where}: the {judged_split} split judges none of the queries; are the ids those of queries?")
    judged = pl.concat(known.values()).select("qid").unique()
    unjudged = queries.height - judged.height
    if unjudged:
        log.warning("%s: %d queries have no judgements; they are left out of every split", where, unjudged)
    if docs.height == 1:
        log.warning("%s: a corpus of one document: every ranking of it is the same", name)
    if "train" in roles and "valid" not in roles:
        roles["train"], roles["valid"] = splits.cut_validation(roles["train"], queries)
    filled = {split: frame for split, frame in roles.items() if frame.height}
    return Dataset(name=name, docs=docs, queries=queries, qrels=filled, judged_split=judged_split)


def _fitting(relevant: pl.DataFrame, n: int) -> tuple[list[str], set[str]]:
    """The queries whose relevant documents fit into `n` together, taken greedily, and those documents."""
    wanted = relevant.group_by("qid").agg(pl.col("docid").unique()).rows()
    kept: list[str] = []
    documents: set[str] = set()
    for qid, docids in sorted(wanted, key=lambda row: (len(row[1]), _shuffled(row[0]), row[0])):
        new = [docid for docid in docids if docid not in documents]
        if len(documents) + len(new) <= n:
            kept.append(qid)
            documents.update(new)
    return kept, documents


def _shuffled(key: str) -> float:
    # Salted: with the hash that the splits are cut by, a first look would favour one split.
    return splits.unit_hash(f"limit {key}")


def _digest(digest: "hashlib._Hash", name: str, frame: pl.DataFrame, key: list[str]) -> None:
    """Feed `frame` to `digest`, rows ordered by `key`: for each slice and column the byte lengths, then the bytes."""
    columns = sorted(frame.columns)
    digest.update(repr((name, frame.height, columns)).encode())
    for rows in frame.sort(key).iter_slices(_SLICE):
        for column in columns:
            texts = rows[column].cast(pl.String)
            digest.update(texts.str.len_bytes().fill_null(2**32 - 1).to_numpy().tobytes())
            digest.update("".join(text for text in texts if text is not None).encode())
