"""The embedded default data set: searching the documentation of the Python installation that this runs on.

A document is a public module, class, function or method. A query is the summary sentence of a docstring, which is held
out: it is removed from its document, so finding the object by its summary takes its name, its signature and the rest of
its documentation. Relevant (1) are the objects that share the summary's docstring.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import polars as pl

from retrieval import splits
from retrieval.datasets import Dataset
from retrieval.frames import DOCS, QRELS, QUERIES
from retrieval.pydocs_source import Entry, entries, installed_packages, standard_library

log = logging.getLogger(__name__)

SHARES = {"train": 0.6, "valid": 0.15, "test": 0.25}
MIN_WORDS, MAX_WORDS = 3, 60

_CALL = re.compile(r"\s*[\w.]+\([^\n]*\)(\s*->\s*[^\n]*?)?(\s+--\s+|[ \t]*(\n|$))")
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)[.!?](?=\s+[^\sa-z])")
_PARAGRAPH_END = re.compile(r"\S[ \t]*\n[ \t]*\n")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")


def load_pydocs(*, packages: bool = False, roots: Sequence[Path] | None = None) -> Dataset:
    """The documentation of this Python as a Dataset with train, valid and test queries (60 / 15 / 25 %).

    packages: add the installed packages to the standard library. roots: read these folders of sources instead.
    DOCS has the metadata columns `kind` and `module`.
    """
    if roots is None:
        roots = [standard_library(), *(installed_packages() if packages else ())]
    found: dict[str, Entry] = {}
    for root in roots:
        for entry in entries(root):
            found.setdefault(entry.name, entry)
    ordered = [found[name] for name in sorted(found)]
    parts = [held_out(entry) for entry in ordered]
    docs = pl.DataFrame(
        {
            "docid": [entry.name for entry in ordered],
            "title": [entry.name.removeprefix(f"{entry.module}.") for entry in ordered],
            "text": [_text(entry, body) for entry, (_, body) in zip(ordered, parts, strict=True)],
            "kind": [entry.kind for entry in ordered],
            "module": [entry.module for entry in ordered],
        },
        schema={**DOCS, "kind": pl.String, "module": pl.String},
    )
    queries, judged = _queries(docs, [summary for summary, _ in parts])
    return Dataset(name="pydocs", docs=docs, queries=queries, qrels=_split(queries, judged))


def held_out(entry: Entry) -> tuple[str, str]:
    """(summary, body): the summary sentence of the docstring and what is left of it.

    The summary is the first sentence of the first paragraph, after a heading that is just the object's name and a
    leading call such as `copy(src, dst) -> path`, which both stay in the body. It is empty, and the body whole, where
    that sentence has fewer than MIN_WORDS or more than MAX_WORDS words.
    """
    docstring = entry.docstring
    start = 0
    if call := _CALL.match(docstring):
        start = call.end()
    paragraph_end = _paragraph_end(docstring, start)
    if splits.normalised(docstring[start:paragraph_end]) in splits.normalised(entry.name):
        start = paragraph_end
        paragraph_end = _paragraph_end(docstring, start)
    sentence_end = _SENTENCE_END.search(docstring, start, paragraph_end)
    end = sentence_end.end() if sentence_end else paragraph_end
    summary = " ".join(docstring[start:end].split())
    words = len(re.findall(r"[^\W\d_]{2,}", summary))
    if not MIN_WORDS <= words <= MAX_WORDS:
        return "", docstring
    return summary, (docstring[:start].rstrip() + "\n" + docstring[end:].lstrip()).strip()


def _paragraph_end(text: str, start: int) -> int:
    blank = _PARAGRAPH_END.search(text, start)
    return blank.end() if blank else len(text)


def words(name: str) -> str:
    """A dotted name as the words one would search for: `zipfile.ZipFile.read_dir` gives `zipfile zip file read dir`."""
    return " ".join(_WORD.findall(name)).lower()


def _text(entry: Entry, body: str) -> str:
    local = entry.name.removeprefix(f"{entry.module}.")
    about = "module" if entry.kind == "module" else f"{entry.kind} in {entry.module}"
    return "\n".join(part for part in (f"{about}: {words(local)}", entry.signature, body) if part)


def _queries(docs: pl.DataFrame, summaries: Sequence[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """QUERIES, one a distinct summary, and QRELS: every object of that summary, the shared docstrings among them.

    A summary that its own document still contains elsewhere makes no query.
    """
    sharing: dict[str, list[int]] = defaultdict(list)
    for row, summary in enumerate(summaries):
        if summary:
            sharing[splits.normalised(summary)].append(row)
    documents = [
        splits.normalised(f"{title} {text}") if summary else ""
        for title, text, summary in zip(docs["title"], docs["text"], summaries, strict=True)
    ]
    kept = {key: rows for key, rows in sharing.items() if not any(key in documents[row] for row in rows)}
    log.info("pydocs: %d summaries make no query: their document repeats them", len(sharing) - len(kept))
    qid = {key: f"q{blake2b(key.encode(), digest_size=8).hexdigest()}" for key in kept}
    queries = pl.DataFrame(
        {"qid": [qid[key] for key in kept], "query": [summaries[rows[0]] for rows in kept.values()]}, schema=QUERIES
    )
    judged = [(qid[key], docs["docid"][row], 1) for key, rows in kept.items() for row in rows]
    return queries.sort("qid"), pl.DataFrame(judged, schema=QRELS, orient="row").sort("qid", "docid")


def _split(queries: pl.DataFrame, judged: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Whole groups of near-duplicate queries go to one split. No document is relevant to two queries to begin with."""
    qids = queries["qid"].to_list()
    groups = splits.near_duplicates(queries["query"].to_list())
    roles = pl.DataFrame({"qid": qids, "split": splits.assign([qids[group] for group in groups], SHARES)})
    return {
        name: judged.join(roles.filter(pl.col("split") == name), on="qid", how="semi", maintain_order="left")
        for name in SHARES
    }
