"""Train/serve parity: equal where nothing is wrong, and the feature by name where something is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from features.assemble import assemble
from pipeline.bundle import open_bundle
from pipeline.cli import app
from pipeline.parity import replay
from pipeline.request_log import Origin, RequestLog, Session, read_log
from pipeline.searcher import Searcher
from retrieval.errors import InputError, IntegrityError
from tests.pipeline.serving import CANDIDATES, publish_small, questions

K = 5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that serves lambdamart."""
    folder = tmp_path_factory.mktemp("home")
    publish_small(folder, system="lambdamart")
    return folder


@pytest.fixture(scope="module")
def searcher(home: Path) -> Searcher:
    return Searcher.open(home)


@pytest.fixture(scope="module")
def logged(searcher: Searcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy log: thirty queries one by one, then odd ones, all in one batch, one again, one with a large k."""
    log = RequestLog(tmp_path_factory.mktemp("log"))
    for at in range(questions().height):
        searcher.search(questions()[at : at + 1], k=K, log=log)
    odd = pl.DataFrame({"qid": ["a", "b", "c", "d"], "query": ["zzzz", "学习", "???", "the of and"]})
    searcher.search(pl.concat([odd, questions()]), k=K, log=log)
    searcher.search(questions()[:1], k=K, log=log)
    searcher.search(questions()[:1], k=2 * CANDIDATES, log=log)
    return log.folder


Altered = Callable[[pl.DataFrame], pl.DataFrame]


def altered(change: Altered) -> Callable[..., pl.DataFrame]:
    """`assemble` with what it computes changed: an online path with a bug of its own."""
    return lambda *args, **kwargs: change(assemble(*args, **kwargs))


def log_of(home: Path, folder: Path, change: Altered, queries: pl.DataFrame | None = None) -> list[Session]:
    searcher = Searcher(open_bundle(home), assemble=altered(change))
    log = RequestLog(folder)
    queries = questions() if queries is None else queries
    for at in range(queries.height):
        searcher.search(queries[at : at + 1], k=K, log=log)
    return read_log(folder)


def written(sessions: list[Session], folder: Path, features: tuple[str, ...]) -> list[Session]:
    """The log again, as a Cascade would have written it whose ranker's features are `features`."""
    log = RequestLog(folder)
    for session in sessions:
        there = session.origin
        origin = Origin(there.bundle, there.fingerprint, there.system, features, there.environment)
        for row in session.requests.iter_rows(named=True):
            shown = session.shown.filter(pl.col("id") == row["id"])
            shown = shown.with_columns(pl.lit(0.0).alias(name) for name in features if name not in shown.columns)
            query = {"qid": row["qid"], "query": row["query"]}
            log.append(origin, query, {name: row[name] for name in ("k", "depth", "candidates")}, shown)
    return read_log(folder)


def test_a_healthy_log_is_equal_bit_by_bit(home: Path, logged: Path, searcher: Searcher) -> None:
    sessions = read_log(logged)
    found = replay(sessions, home=home)
    assert found.equal, found.differences
    assert (found.requests, found.bundles) == (66, (searcher.bundle.path.name,))
    assert found.documents == 65 * K + 2 * CANDIDATES
    assert set(found.features) == set(sessions[0].origin.features)
    assert len(found.features) > 60
    missing = sessions[0].shown["bm25_stage_score"].is_nan()
    assert missing.any(), "nothing here shows that a missing value stays missing"
    assert not missing.all()
    assert [note for note in found.notes if f"1 requests asked for more than the {CANDIDATES} candidates" in note]


def test_the_log_holds_what_was_shown(searcher: Searcher, tmp_path: Path) -> None:
    log = RequestLog(tmp_path)
    found = searcher.search(questions(), k=K, log=log)
    requests, shown = read_log(tmp_path)[0].requests, read_log(tmp_path)[0].shown
    assert requests.select("qid", "query").equals(questions())
    back = shown.join(requests.select("id", "qid"), on="id", maintain_order="left")
    assert back.select("qid", "docid", "rank", "score").equals(found.select("qid", "docid", "rank", "score"))
    for stage in ("bm25", "dense", "fused"):
        kept = back[f"stage_{stage}"].fill_nan(None).rename(stage)
        assert kept.equals(found[stage]), stage
    assert searcher.search(questions(), k=K).equals(found), "logging changed what is shown"


def test_a_changed_feature_is_named_with_its_reach_and_its_worst_document(home: Path, tmp_path: Path) -> None:
    def change(features: pl.DataFrame) -> pl.DataFrame:
        number = pl.col("docid").str.slice(1).cast(pl.Float32)
        longer = pl.when(pl.col("docid").is_in(["d03", "d07"])).then(number).otherwise(0)
        return features.with_columns((pl.col("text_length") + longer).cast(pl.Float32))

    sessions = log_of(home, tmp_path, change)
    shown = sessions[0].shown.filter(pl.col("docid").is_in(["d03", "d07"]))
    assert {"d03", "d07"} == set(shown["docid"]), "the changed documents must be shown for this to mean anything"
    found = replay(sessions, home=home)
    assert not found.equal
    by_name = {each.what: each for each in found.differences}
    assert set(by_name) <= {"text_length", "score"}
    length = by_name["text_length"]
    assert (length.documents, length.requests) == (shown.height, shown["id"].n_unique())
    assert (length.largest, length.docid, length.missing) == (7.0, "d07", 0)
    assert length.served is not None
    assert length.offline is not None
    assert length.served - length.offline == 7.0
    query = sessions[0].requests.filter(pl.col("id") == length.request)["query"][0]
    assert length.query == query


def test_a_missing_value_that_serving_fills_with_zero_is_named(home: Path, tmp_path: Path) -> None:
    sessions = log_of(home, tmp_path, lambda features: features.with_columns(pl.col("bm25_stage_score").fill_nan(0.0)))
    healthy = log_of(home, tmp_path / "healthy", lambda features: features)
    found = {each.what: each for each in replay(sessions, home=home).differences}
    filled = found["bm25_stage_score"]
    assert filled.missing == filled.documents > 0
    assert filled.documents == healthy[0].shown["bm25_stage_score"].is_nan().sum()
    assert (filled.served, filled.offline, filled.largest) == (0.0, None, None)


def test_one_bit_is_enough_and_a_tolerance_forgives_it(home: Path, tmp_path: Path) -> None:
    def change(features: pl.DataFrame) -> pl.DataFrame:
        nudged = np.nextafter(features["cosine"].to_numpy(), np.float32(2))
        return features.with_columns(cosine=pl.Series(nudged, dtype=pl.Float32))

    sessions = log_of(home, tmp_path, change)
    found = replay(sessions, home=home)
    assert "cosine" in [each.what for each in found.differences]
    assert found.differences[0].documents == sessions[0].shown.height
    assert 0 < found.differences[0].largest < 1e-6  # type: ignore[operator]
    assert replay(sessions, home=home, tolerance=1e-6).equal
    with pytest.raises(InputError, match="tolerance must be a finite number, 0 or more; found -1"):
        replay(sessions, home=home, tolerance=-1)


def test_another_order_is_reported_with_the_first_rank_that_differs(home: Path, tmp_path: Path) -> None:
    def change(features: pl.DataFrame) -> pl.DataFrame:
        """Every feature of a query's documents goes to another of its documents."""
        return features.with_columns(pl.exclude("qid", "docid").reverse().over("qid"))

    sessions = log_of(home, tmp_path, change)
    found = replay(sessions, home=home)
    assert found.reordered is not None
    healthy = log_of(home, tmp_path / "healthy", lambda features: features)
    by_request = [each[0].shown.group_by("id", maintain_order=True).agg("docid") for each in (sessions, healthy)]
    lists = [frame["docid"].to_list() for frame in by_request]
    differing = [at for at, (mine, right) in enumerate(zip(*lists, strict=True)) if mine != right]
    assert found.reordered.requests == len(differing) > 0
    mine, right = (each[differing[0]] for each in lists)
    rank = next(at for at in range(K) if mine[at] != right[at])
    assert found.reordered.rank == rank + 1
    assert (found.reordered.served, found.reordered.offline) == (mine[rank], right[rank])


def test_columns_in_another_order_are_no_difference(home: Path, logged: Path, tmp_path: Path) -> None:
    sessions = read_log(logged)
    shuffled = tuple(reversed(sessions[0].origin.features))
    again = written(sessions, tmp_path, shuffled)
    assert again[0].shown.columns != sessions[0].shown.columns
    assert replay(again, home=home).equal
    online = log_of(home, tmp_path / "online", lambda features: features.select("qid", "docid", *shuffled))
    assert replay(online, home=home).equal


def test_a_document_that_the_offline_path_does_not_find_is_a_matter_of_order(
    home: Path, logged: Path, tmp_path: Path
) -> None:
    (session,) = read_log(logged)
    first = session.requests["id"][0]
    strange = pl.when((pl.col("id") == first) & (pl.col("rank") == 3)).then(pl.lit("d99")).otherwise("docid")
    other = Session(session.path, session.origin, session.requests, session.shown.with_columns(docid=strange), 0)
    found = replay([other], home=home)
    assert found.differences == ()
    assert found.reordered is not None
    assert (found.reordered.requests, found.reordered.request, found.reordered.rank) == (1, first, 3)
    assert (found.reordered.served, found.reordered.offline) == ("d99", session.shown["docid"][2])
    # No tolerance makes another document of it.
    assert replay([other], home=home, tolerance=100.0).reordered is not None


def test_a_feature_that_is_gone_is_named(home: Path, logged: Path, tmp_path: Path) -> None:
    sessions = read_log(logged)
    names = sessions[0].origin.features
    with pytest.raises(InputError, match="the logged feature 'page_rank' no longer exists"):
        replay(written(sessions, tmp_path / "more", (*names, "page_rank")), home=home)
    with pytest.raises(InputError, match=f"ranker do not agree on {names[0]}$"):
        replay(written(sessions, tmp_path / "fewer", names[1:]), home=home)


def test_the_bundle_that_served_is_the_one_replayed(home: Path, logged: Path, tmp_path: Path) -> None:
    """A network serves now; what the trees served before is still replayed on the trees."""
    other = tmp_path / "home"
    publish_small(other, system="softmax+attention")
    log = RequestLog(tmp_path / "log")
    Searcher.open(other).search(questions(), k=K, log=log)
    Searcher.open(other).search(questions()[:1], k=K, log=log)
    network = read_log(log.folder)
    found = replay(network, home=other)
    assert found.equal, found.differences
    with pytest.raises(InputError, match=r"not in .*bundles; give a copy as --bundle FOLDER, or publish it again"):
        replay(network, home=home)
    assert replay(network, home=home, bundle=other / "current").equal
    trees = read_log(logged)
    with pytest.raises(InputError, match=r"was served by small of fingerprint .* is of fingerprint"):
        replay(trees, home=home, bundle=other)
    shutil.copytree((home / "current").resolve(), other / "bundles" / (home / "current").resolve().name)
    both = replay([*trees, *network], home=other)
    assert both.equal, both.differences
    assert len(both.bundles) == 2


@pytest.mark.parametrize("system", ["bm25", "fused"])
def test_a_system_without_features_is_replayed_by_its_stages(tmp_path: Path, system: str) -> None:
    publish_small(tmp_path, system=system)
    log = RequestLog(tmp_path / "log")
    Searcher.open(tmp_path).search(questions(), k=K, log=log)
    found = replay(read_log(log.folder), home=tmp_path)
    assert found.equal, found.differences
    assert (found.features, found.documents) == ((), questions().height * K)


def test_a_request_that_is_in_the_log_twice_and_an_empty_log_are_refused(
    home: Path, logged: Path, tmp_path: Path
) -> None:
    sessions = read_log(logged)
    with pytest.raises(IntegrityError, match="is in the log twice"):
        replay([*sessions, sessions[0]], home=home)
    session = sessions[0]
    empty = Session(session.path, session.origin, session.requests.clear(), session.shown.clear(), 0)
    with pytest.raises(InputError, match="holds no request"):
        replay([empty], home=home)


def test_the_command_says_equal_different_and_refused_by_its_exit_code(
    home: Path, logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASCADE_HOME", str(home))
    run = CliRunner().invoke
    asked = run(app, ["search", "the price of a violin", "--k", "3", "--log", str(tmp_path / "mine"), "--json"])
    assert asked.exit_code == 0, asked.output
    same = run(app, ["parity", str(tmp_path / "mine"), "--json"])
    assert same.exit_code == 0, same.output
    said = json.loads(same.stdout)
    assert (said["equal"], said["requests"], said["documents"]) == (True, 1, 3)
    assert said["differences"] == []
    log_of(home, tmp_path / "broken", lambda features: features.with_columns(cosine=pl.lit(0.5, pl.Float32)))
    different = run(app, ["parity", str(tmp_path / "broken")])
    assert different.exit_code == 1
    assert "cosine" in different.output
    said = json.loads(run(app, ["parity", str(tmp_path / "broken"), "--json"]).stdout)
    assert said["differences"][0]["what"] == "cosine"
    file = next((tmp_path / "mine").iterdir())
    file.write_bytes(file.read_bytes().replace(b"violin", b"walnut"))
    altered_log = run(app, ["parity", str(tmp_path / "mine")])
    assert isinstance(altered_log.exception, IntegrityError)
