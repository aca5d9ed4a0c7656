import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from retrieval.datasets import Dataset
from retrieval.pydocs import held_out, load_pydocs, words
from retrieval.pydocs_source import Entry, entries

SOURCES = {
    "zoo.py": '''
"""Keep the animals of the zoo.

Animals are kept in cages.
"""
import nothing_of_this_is_imported

class Cage(Base, metaclass=Meta):
    """Hold one animal at a time.

    A cage can be locked.
    """
    def lock(self, key, *, force=False) -> bool:
        """Lock the door with a key. The key is kept."""
        def inner():
            """Nested functions are never public."""
    def unlock(self):
        """Unlock it."""
    @property
    def size(self):
        """The size of this cage in metres."""
    @size.setter
    def size(self, value):
        """A setter says something else entirely."""
    def __len__(self):
        """Return the number of animals inside."""
    class Door:
        """Swing open and swing shut."""

if True:
    def feed(animal):
        """feed(animal) -> bool

        Give food to one hungry animal.
        """
else:
    def feed(animal):
        """Never read since the first one wins."""

try:
    import fast
except ImportError:
    async def wash(animal):
        """Wash the animal with warm water!  Dry it afterwards."""

def rinse(animal):
    """Wash the animal with warm water!  Dry it afterwards."""

def scrub(animal):
    """Scrub the animal until it shines.

    That is: scrub the animal until it shines. Then stop.
    """

def _private():
    """Do something that nobody should find."""

def bare():
    pass
''',
    "zoo_tools/__init__.py": '"""zoo_tools\n\nCollect tools for keepers e.g. brooms. They are old."""\n',
    "zoo_tools/brooms.py": 'def sweep():\n    """Sweep the floor of the cage \\ud800 twice."""\n',
    "zoo_tools/tests/__init__.py": '"""Test the tools of the zoo keepers."""\n',
    "_hidden.py": '"""Hide this module from all readers."""\n',
    "test_zoo.py": '"""Test the zoo and all its animals."""\n',
    "no_package/inner.py": '"""Sit in a folder that is no package."""\n',
    "broken.py": "def (:\n",
    "nul.py": "x = '\0'\n",
    "not-a-name.py": '"""Bear a name that nothing can import."""\n',
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, source in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    return tmp_path


@pytest.fixture(scope="module")
def stdlib() -> Dataset:
    started = time.monotonic()
    dataset = load_pydocs()
    assert time.monotonic() - started < 60
    return dataset


def judged(dataset: Dataset) -> pl.DataFrame:
    return pl.concat(dataset.qrels.values())


def plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def test_the_public_documented_objects_are_found(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = {entry.name: entry for entry in entries(tree)}
    assert {name: entry.kind for name, entry in found.items()} == {
        "zoo": "module",
        "zoo.Cage": "class",
        "zoo.Cage.Door": "class",
        "zoo.Cage.lock": "method",
        "zoo.Cage.size": "method",
        "zoo.Cage.unlock": "method",
        "zoo.feed": "function",
        "zoo.rinse": "function",
        "zoo.scrub": "function",
        "zoo.wash": "function",
        "zoo_tools": "module",
        "zoo_tools.brooms.sweep": "function",
    }
    assert found["zoo.Cage.lock"].signature == "lock(self, key, *, force=False) -> bool"
    assert found["zoo.Cage"].signature == "class Cage(Base)"
    assert found["zoo.Cage.size"].docstring == "The size of this cage in metres."
    assert "skipped 2 source files" in caplog.text


def test_documents_and_queries(tree: Path) -> None:
    dataset = load_pydocs(roots=[tree])
    lock = dataset.docs.row(by_predicate=pl.col("docid") == "zoo.Cage.lock", named=True)
    assert lock == {
        "docid": "zoo.Cage.lock",
        "title": "Cage.lock",
        "text": "method in zoo: cage lock\nlock(self, key, *, force=False) -> bool\nThe key is kept.",
        "kind": "method",
        "module": "zoo",
    }
    by_query = judged(dataset).join(dataset.queries, on="qid").group_by("query").agg(pl.col("docid").sort())
    assert dict(by_query.iter_rows()) == {
        "Keep the animals of the zoo.": ["zoo"],
        "Hold one animal at a time.": ["zoo.Cage"],
        "Swing open and swing shut.": ["zoo.Cage.Door"],
        "Lock the door with a key.": ["zoo.Cage.lock"],
        "The size of this cage in metres.": ["zoo.Cage.size"],
        "Give food to one hungry animal.": ["zoo.feed"],
        "Wash the animal with warm water!": ["zoo.rinse", "zoo.wash"],
        "Collect tools for keepers e.g. brooms.": ["zoo_tools"],
        "Sweep the floor of the cage \ufffd twice.": ["zoo_tools.brooms.sweep"],
    }


@pytest.mark.parametrize(
    ("docstring", "summary", "body"),
    [
        ("Open it.", "", "Open it."),
        ("Open the file.", "Open the file.", ""),
        ("Open the file\nfor reading. Then close.\n\nMore.", "Open the file for reading.", "Then close.\n\nMore."),
        ("open(path) -- Open the file for good.", "Open the file for good.", "open(path) --"),
        ("m.open\n\nOpen the file for good.\n\nMore.", "Open the file for good.", "m.open\nMore."),
        ("Open version 3.11 of i.e. Python. Yes.", "Open version 3.11 of i.e. Python.", "Yes."),
        ("word " * 61, "", "word " * 61),
        ("", "", ""),
        ("open()", "", "open()"),
    ],
)
def test_the_summary_is_held_out(docstring: str, summary: str, body: str) -> None:
    assert held_out(Entry("m.open", "function", "m", "", docstring)) == (summary, body)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zipfile.ZipFile.read_dir", "zipfile zip file read dir"),
        ("HTTPServer", "http server"),
        ("utf8_decode", "utf 8 decode"),
        ("éléphantRose", "éléphant rose"),
    ],
)
def test_names_read_as_words(name: str, expected: str) -> None:
    assert words(name) == expected


def test_the_same_under_any_hash_seed(tree: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from retrieval.pydocs import load_pydocs;"
        "print(load_pydocs(roots=[Path(sys.argv[1])]).fingerprint)"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code, str(tree)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert prints == {load_pydocs(roots=[tree]).fingerprint}


def test_of_two_roots_the_first_wins(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "zoo.py").write_text('"""Shadow the zoo of the first root."""\n')
    (other / "extra.py").write_text('"""Add an extra module to the zoo."""\n')
    both = load_pydocs(roots=[tree, other]).docs["docid"].to_list()
    assert both == sorted([*load_pydocs(roots=[tree]).docs["docid"], "extra"])


def test_the_standard_library_has_the_size_that_is_promised(stdlib: Dataset) -> None:
    assert 5000 < stdlib.docs.height < 8000
    assert 4000 < stdlib.queries.height < 7000
    modules = set(stdlib.docs["module"])
    assert {"zipfile", "json", "asyncio.queues"} <= modules
    assert not [name for name in modules if re.search(r"(^|\.)(_|tests?\b|idle_test|site-packages)", name)]
    shares = {split: stdlib.split_queries(split).height / stdlib.queries.height for split in stdlib.qrels}
    assert shares == pytest.approx({"train": 0.6, "valid": 0.15, "test": 0.25}, abs=0.03)


def test_no_summary_leaks_into_its_own_document(stdlib: Dataset) -> None:
    pairs = judged(stdlib).join(stdlib.queries, on="qid").join(stdlib.docs, on="docid")
    assert pairs.height >= stdlib.queries.height
    leaks = [
        (docid, query)
        for docid, query, title, text in pairs.select("docid", "query", "title", "text").iter_rows()
        if plain(query) in plain(f"{title} {text}")
    ]
    assert leaks == []


def test_no_near_duplicate_stands_across_splits(stdlib: Dataset) -> None:
    split_of = {qid: split for split, frame in stdlib.qrels.items() for qid in frame["qid"]}
    assert set(split_of) == set(stdlib.queries["qid"])
    assert judged(stdlib)["docid"].n_unique() == judged(stdlib).height
    sets = [(split_of[qid], frozenset(plain(query).split())) for qid, query in stdlib.queries.iter_rows()]
    by_token: dict[str, list[int]] = {}
    for index, (_, tokens) in enumerate(sets):
        for token in tokens:
            by_token.setdefault(token, []).append(index)
    for index, (split, tokens) in enumerate(sets):
        # A similar set lacks at most a fifth of these tokens, so it holds one of any fifth of them plus one.
        rarest = sorted(tokens, key=lambda token: len(by_token[token]))[: len(tokens) // 5 + 1]
        for other in {other for token in rarest for other in by_token[token]}:
            other_split, other_tokens = sets[other]
            if other != index and len(tokens & other_tokens) >= 0.8 * len(tokens | other_tokens):
                assert split == other_split
