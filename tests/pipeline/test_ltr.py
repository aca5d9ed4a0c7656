"""`cascade ltr` from files to figures: every convention held to loops, fits found again, refusals in one line."""

import json
import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.ltr import BAGS, Files, ltr
from pipeline.ltr_settings import BLENDED, defaults, read_settings
from rankers.catalogue import RANKERS
from retrieval.errors import InputError
from retrieval.letor import read_letor, write_letor
from tests.pipeline.test_cli import cascade, refused
from tests.rankers.synthetic import judged

NAMES = ["regression", "ranknet", "blend"]
PARTS = ["regression", "ranknet"]


def quiet(stage: str, done: int, total: int) -> None:
    """Shows no progress."""


def letor(frame: pl.DataFrame) -> pl.DataFrame:
    """The synthetic FEATURES as a LETOR file can hold them: features f1, f2, …"""
    names = [name for name in frame.columns if name not in ("qid", "docid", "relevance")]
    return frame.rename({name: f"f{place}" for place, name in enumerate(names, 1)}).fill_nan(0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits; the test split has blank queries and one of a single document."""
    folder = tmp_path_factory.mktemp("letor")
    write_letor(letor(judged(60, seed=1, depth=12)), folder / "train.txt.gz")
    write_letor(letor(judged(30, seed=2, depth=12)), folder / "valid.txt")
    test = letor(judged(25, seed=3, depth=12))
    blank = pl.col("qid").is_in(["q3-0", "q3-1", "q3-2"])
    test = test.with_columns(relevance=pl.when(blank).then(0).otherwise("relevance").cast(pl.Int32))
    alone = letor(judged(1, seed=4, depth=1))
    write_letor(pl.concat([test, alone]), folder / "test.txt")
    return folder


def files(folder: Path) -> Files:
    return Files([folder / "train.txt.gz"], [folder / "valid.txt"], [folder / "test.txt"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def result(folder: Path, home: Path):
    settings = {"ranknet": {"epochs": 6}}
    return ltr(files(folder), NAMES, home=home, seeds=2, settings=settings, blended=PARTS, track=False, progress=quiet)


def by_hand(test: pl.DataFrame, scores: pl.DataFrame, exponential: bool, blank: str) -> float:
    """NDCG@10 query by query."""
    figures = []
    for _, rows in test.join(scores, on=["qid", "docid"]).group_by("qid"):
        ranked = sorted(rows.select("score", "docid", "relevance").rows(), reverse=True)
        gain = [2.0 ** row[2] - 1 if exponential else row[2] for row in ranked]
        ideal = sum(g / np.log2(place + 2) for place, g in enumerate(sorted(gain, reverse=True)[:10]))
        found = sum(g / np.log2(place + 2) for place, g in enumerate(gain[:10]))
        if ideal > 0:
            figures.append(found / ideal)
        elif blank != "skip":
            figures.append({"zero": 0.0, "one": 1.0}[blank])
    return float(np.mean(figures))


def test_each_figure_is_that_of_its_convention(result, folder: Path) -> None:
    test = read_letor([folder / "test.txt"]).select("qid", "docid", "relevance")
    rows = result.as_json()["rankers"]
    assert [(row["name"], row["seed"]) for row in rows] == [(name, seed) for name in NAMES for seed in (0, 1)]
    for row, fit in zip(rows, (fit for name in NAMES for fit in result.fits[name]), strict=True):
        for metric, exponential in (("ndcg_exp_cut_10", True), ("ndcg_cut_10", False)):
            assert set(row[metric]) == {"zero", "one", "skip"}
            for blank, value in row[metric].items():
                assert value == pytest.approx(by_hand(test, fit.scores("test"), exponential, blank), abs=1e-9)
        assert row["train_s"] > 0
        assert row["predict_us_per_doc"] > 0
        assert 0 < row["map"] < 1
        assert 0 < row["err_10"] < 1
    blanks = test.group_by("qid").agg(pl.col("relevance").max())["relevance"].to_list().count(0)
    assert result.as_json()["blank_queries"] == blanks >= 3


def test_the_json_is_strict_and_the_table_fits_eighty_columns(result) -> None:
    json.dumps(result.as_json(), allow_nan=False)
    from rich.console import Console

    console = Console(width=80, record=True)
    console.print(result.table())
    assert "…" not in console.export_text()


def test_the_blend_reads_the_others_and_validation_chooses(result) -> None:
    said = json.loads((result.fits["blend"][0].ranker / "ranker.json").read_text())
    assert said["hyperparameters"]["members"] == [name for name in PARTS for _ in range(BAGS)]
    assert said["hyperparameters"]["method"] == "rank"
    assert result.selected in NAMES


def test_the_same_again_is_found_and_another_seed_costs_that_seed(folder: Path, home: Path, result, caplog) -> None:
    caplog.set_level(logging.INFO, "pipeline.stages")
    settings = {"ranknet": {"epochs": 6}}
    again = ltr(files(folder), NAMES, home=home, seeds=2, settings=settings, blended=PARTS, track=False, progress=quiet)
    assert again.as_json() == result.as_json()
    assert "made in" not in caplog.text
    ltr(files(folder), ["regression"], home=home, seeds=3, track=False, progress=quiet)
    assert caplog.text.count("made in") == 1


def test_tracked_the_best_on_validation_is_champion_and_loads_from_the_registry(
    folder: Path, home: Path, result
) -> None:
    import mlflow

    from pipeline.mlflow_database import DATABASE

    settings = {"ranknet": {"epochs": 6}}
    tracked = ltr(
        files(folder), NAMES, home=home, seeds=2, settings=settings, blended=PARTS, dataset="tiny", progress=quiet
    )
    assert tracked.promotion is not None
    assert tracked.promotion.status == "champion"
    uri = f"sqlite:///{home / DATABASE}"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version_by_alias(tracked.promotion.model, "champion")
    assert version.tags["cascade.system"] == tracked.selected
    again = ltr(
        files(folder), NAMES, home=home, seeds=2, settings=settings, blended=PARTS, dataset="tiny", progress=quiet
    )
    assert again.promotion is not None
    assert again.promotion.status == "unchanged"


def test_defaults_are_settings_that_the_rankers_have() -> None:
    from pipeline import build

    for name in RANKERS:
        for rows in (1_000, 100_000, 5_000_000):
            build.check_settings(name, defaults(name, rows))
    assert set(BLENDED) <= set(RANKERS)


def test_settings_files_are_read_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"ranker": "pointwise", "settings": {"num_leaves": 7}}')
    assert read_settings(path) == ("regression", {"num_leaves": 7})
    for text in ("{", "[]", '{"ranker": "lambdamart"}', '{"ranker": "blend", "settings": {}}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"s\.json"):
            read_settings(path)


ROW = "{label} qid:{qid} 1:{value} 2:0.5\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for split in ("train", "valid", "test"):
        rows = [ROW.format(label=n % 2, qid=f"{split}{n // 4}", value=n / 10) for n in range(16)]
        (tmp_path / f"{split}.txt").write_text("".join(rows))
    return tmp_path


def command(*more: str, ranker: str = "regression") -> list[str]:
    given = ["ltr", "--train", "train.txt", "--valid", "valid.txt", "--test", "test.txt", "--ranker", ranker]
    return [*given, "--seeds", "1", "--home", "home", *more]


@pytest.mark.parametrize(
    ("split", "text", "words"),
    [
        ("train", ROW.format(label="nan", qid="a", value=1), "train.txt, line 1"),
        ("train", ROW.format(label="31", qid="a", value=1), "train.txt, line 1"),
        ("valid", ROW.format(label="1.5", qid="a", value=1), "valid.txt, line 1"),
        ("test", ROW.format(label="1", qid="a", value="inf"), "test.txt, line 1"),
        ("test", ROW.format(label="1", qid="train0", value=1), "train0"),
        ("train", "".join(ROW.format(label=0, qid="a", value=n) for n in range(4)), "no query has a relevant"),
        ("valid", "".join(ROW.format(label=0, qid="a", value=n) for n in range(4)), "no query has a relevant"),
        ("train", "".join(ROW.format(label=n % 2, qid="a", value=n) for n in range(10_001)), "10,00"),
        ("test", "", "is empty"),
    ],
)
def test_bad_files_are_refused_in_one_line(small: Path, split: str, text: str, words: str) -> None:
    (small / f"{split}.txt").write_text(text)
    given = Files(*([small / f"{name}.txt"] for name in ("train", "valid", "test")))
    with pytest.raises(InputError) as refusal:
        ltr(given, ["regression"], home=small / "home", seeds=1, track=False, progress=quiet)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_refused_file_is_one_line_on_stderr(small: Path) -> None:
    (small / "train.txt").write_text(ROW.format(label="nan", qid="a", value=1))
    assert "train.txt, line 1" in refused(*command("--no-track"), cwd=small)


def test_bad_names_settings_and_counts_are_refused(small: Path) -> None:
    assert "did you mean 'lambdamart'" in refused(*command(ranker="lambdamrt"), cwd=small)
    assert "seeds must be at least 1" in refused(*command("--seeds", "0"), cwd=small)
    (small / "s.json").write_text('{"ranker": "regression", "settings": {"leaves": 7}}')
    assert "unknown setting 'leaves'" in refused(*command("--settings", "s.json"), cwd=small)
    assert "at least two single rankers" in refused(*command("--blend", "ranknet", ranker="blend"), cwd=small)
    assert "no such file" in refused(*command("--test", "absent.txt"), cwd=small)


def test_a_test_split_with_nothing_relevant_has_no_skip_figure(small: Path) -> None:
    (small / "test.txt").write_text("".join(ROW.format(label=0, qid="a", value=n) for n in range(4)))
    done = cascade(*command("--no-track", "--json"), cwd=small)
    row = json.loads(done.stdout)["rankers"][0]
    assert row["ndcg_exp_cut_10"] == {"zero": 0.0, "one": 1.0, "skip": None}


def test_a_cached_ranker_that_was_altered_is_trained_again(small: Path) -> None:
    first = json.loads(cascade(*command("--no-track", "--json"), cwd=small).stdout)
    model = next((small / "home" / "stages").glob("ltr-regression-*/ranker/model.txt"))
    model.write_bytes(model.read_bytes()[:-200])
    done = cascade(*command("--no-track", "--json"), cwd=small)
    assert "cannot be trusted and is made again" in done.stderr
    assert json.loads(done.stdout)["rankers"][0]["map"] == first["rankers"][0]["map"]
