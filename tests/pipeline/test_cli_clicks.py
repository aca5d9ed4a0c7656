"""`cascade clicks` as a user meets it."""

import json
from pathlib import Path

import polars as pl
import pytest

from rankers.clicks.log import read_log
from retrieval.frames import ranked
from retrieval.letor import write_letor
from retrieval.trec import write_run
from tests.pipeline.test_cli import cascade, refused
from tests.rankers.synthetic import judged


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    frame = judged(20, seed=1)
    write_letor(frame, folder / "judged.txt")
    made = cascade("clicks", "simulate", "judged.txt", "--by", "f1", "--sessions", "2000", "--swap", "0.3", "--out",
                   "log.parquet", "--json", cwd=folder)  # fmt: skip
    assert json.loads(made.stdout)["sessions"] == 2000
    log = read_log(folder / "log.parquet")
    run = ranked(log.group_by("qid", "docid").agg(score=pl.col("click").mean().cast(pl.Float32)))
    write_run(run, folder / "run.trec", "t")
    return folder


def test_fit_label_and_evaluate(folder: Path, tmp_path: Path) -> None:
    log, model, labels = folder / "log.parquet", tmp_path / "model", tmp_path / "labels.parquet"
    fitted = json.loads(cascade("clicks", "fit", log, "--model", "dbn", "--out", model, "--json", cwd=tmp_path).stdout)
    assert 0 < fitted["shared"]["continuation"] <= 1
    assert 1 < fitted["perplexity"] < 2
    said = json.loads(
        cascade("clicks", "labels", log, "--model", model, "--out", labels, "--json", cwd=tmp_path).stdout
    )
    assert said["labels"] == pl.read_parquet(labels).height == fitted["pairs"]
    found = json.loads(
        cascade("clicks", "evaluate", log, "--model", f"pbm,{model}", "--run", folder / "run.trec", "--labels", labels,
                "--propensity", "swap", "--json", cwd=tmp_path).stdout
    )  # fmt: skip
    assert set(found["models"]) == {"pbm", str(model)}
    assert set(found["run"]["ndcg_cut_10"]) == {"pbm", str(model), str(labels)}
    assert [each["name"] for each in found["run"]["values"]["position"]] == ["ips", "snips", "dr"]


def test_tables_say_the_same(folder: Path, tmp_path: Path) -> None:
    log = folder / "log.parquet"
    fitted = cascade("clicks", "fit", log, "--model", "pbm", "--out", tmp_path / "model", cwd=tmp_path).stdout
    assert "perplexity" in fitted
    assert "examination" in fitted
    assert "cascade clicks labels" in fitted
    labels = cascade("clicks", "labels", log, "--method", "ips", "--propensity", "swap", "--grades", "0.2,0.6", "--out",
                     tmp_path / "l.parquet", cwd=tmp_path).stdout  # fmt: skip
    assert "labels of 20 queries" in labels
    judged_run = cascade("clicks", "evaluate", log, "--model", "pbm", "--run", folder / "run.trec", cwd=tmp_path).stdout
    for word in ("held-out pages", "NDCG@10", "item-position", "support", "what the log showed earned"):
        assert word in judged_run


def test_a_bandit_is_valued(tmp_path: Path) -> None:
    header = ",timestamp,item_id,position,click,propensity_score\n"
    for policy, items in (("random", "1212"), ("bts", "1112")):
        campaign = tmp_path / policy / "all"
        campaign.mkdir(parents=True)
        rows = [f"{n},t,{item},1,{int(item == '1')},0.5\n" for n, item in enumerate(items)]
        (campaign / "all.csv").write_text(header + "".join(rows))
    asked = ("clicks", "evaluate", "--obp", "random/all", "--policy", "bts/all")
    found = json.loads(cascade(*asked, "--json", cwd=tmp_path).stdout)
    assert found["earned"] == 0.75
    # Item 1 always earns: chosen half of the time in the log, three quarters by the policy.
    assert found["estimates"][0]["name"] == "ips"
    assert found["estimates"][0]["value"] == pytest.approx(0.75)
    assert "earned 0.7500" in cascade(*asked, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", "none.parquet", "--model", "pbm"), "no such file"),
        (("fit", "judged.txt", "--model", "pbm"), "is not a Parquet file"),
        (("labels", "log.parquet", "--out", "x.parquet"), "name a click model"),
        (("labels", "log.parquet", "--method", "ctr", "--grades", "a,b", "--out", "x.parquet"), "--grades"),
        (("labels", "log.parquet", "--method", "ctr", "--grades", "0.5,0.1", "--out", "x.parquet"), "rise"),
        (("labels", "log.parquet", "--method", "ips", "--propensity", "swap", "--clip", "0", "--out", "x"), "clip"),
        (("evaluate", "log.parquet"), "nothing to evaluate"),
        (("evaluate",), "give a click log"),
        (("evaluate", "--obp", "x"), "give a click log"),
        (("evaluate", "log.parquet", "--model", "pbm", "--held-out", "2"), "between 0 and 1"),
    ],
)
def test_refusals_are_one_line(arguments: tuple[str, ...], said: str, folder: Path) -> None:
    assert said in refused("clicks", *arguments, cwd=folder)
