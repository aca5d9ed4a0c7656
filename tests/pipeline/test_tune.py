"""The search: unbiased folds, the same trials whatever stopped it, and nothing run twice."""

import inspect
import json
import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import build, ltr_settings
from pipeline.cross_validation import Folds, dealt
from pipeline.search_space import OneOf, defaults, space_fingerprint, space_of, started_from
from pipeline.study import open_study
from pipeline.tune import Tuned, tune
from rankers.catalogue import BLEND, RANKERS
from rankers.training import fit_network
from rankers.trees import fit_trees
from retrieval.errors import CascadeError, InputError

ROOT = Path(__file__).resolve().parents[2]
FOLDS = 4


def judged(queries: int = 40, seed: int = 0, prefix: str = "q") -> pl.DataFrame:
    """Eight documents a query, one of them relevant; every fifth query has none. `good` tells, `noise` does not."""
    rng = np.random.default_rng(seed)
    relevance = np.zeros((queries, 8), dtype=np.int32)
    relevance[np.arange(queries), rng.integers(0, 8, queries)] = 1
    relevance[::5] = 0
    flat = relevance.ravel()
    return pl.DataFrame(
        {
            "qid": [f"{prefix}{row // 8:03}" for row in range(len(flat))],
            "docid": [f"d{row % 8}" for row in range(len(flat))],
            "relevance": flat,
            "good": (flat + rng.normal(0, 0.5, len(flat))).astype(np.float32),
            "noise": rng.normal(size=len(flat)).astype(np.float32),
        }
    )


@dataclass(frozen=True)
class FakeRanker:
    """Ranks by `good`, and the more by `noise` the farther its learning rate is from 0.1."""

    weight: float

    def score(self, features: pl.DataFrame) -> np.ndarray:
        good, noise = (features[name].to_numpy() for name in ("good", "noise"))
        return (self.weight * good + (1 - self.weight) * noise).astype(np.float32)


@dataclass
class FakeFit:
    """Stands for `build.fit_ranker`; remembers what it was called with."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    before: Callable[[Mapping[str, Any]], None] = lambda settings: None

    def __call__(
        self,
        name: str,
        train: pl.DataFrame,
        valid: pl.DataFrame,
        *,
        seed: int,
        log: object,
        settings: Mapping[str, Any],
    ) -> FakeRanker:
        self.before(settings)
        self.calls.append({"settings": dict(settings), "train": set(train["qid"]), "valid": set(valid["qid"])})
        return FakeRanker(float(np.exp(-abs(np.log(settings["learning_rate"] / 0.1)))))


def search(home: Path, fit: FakeFit, **options: Any) -> Tuned:
    given = {"trials": 8, "folds": FOLDS, "ranker": "regression", "train": judged(), "valid": None, **options}
    ranker, train, valid = (given.pop(name) for name in ("ranker", "train", "valid"))
    return tune(ranker, train, valid, home=home, fit=fit, **given)


def told(tuned: Tuned) -> list[tuple[object, ...]]:
    """All of a search's trials but the time that they took."""
    return [(t.number, t.state, dict(t.settings), t.folds, t.value, t.error) for t in tuned.trials]


@given(blanks=st.lists(st.booleans(), min_size=1, max_size=60), parts=st.integers(2, 7), seed=st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_parts_are_even_in_both_kinds_of_query_and_know_nothing_of_row_order(blanks, parts, seed):
    queries = pl.DataFrame({"qid": [f"q{n}" for n in range(len(blanks))], "blank": blanks})
    part = dict(zip(queries["qid"], dealt(queries, parts, seed), strict=True))
    for kind in (True, False):
        counts = np.bincount([part[f"q{n}"] for n, blank in enumerate(blanks) if blank == kind], minlength=parts)
        assert counts.max() - counts.min() <= 1
    mixed = queries.sample(fraction=1, shuffle=True, seed=seed)
    assert dict(zip(mixed["qid"], dealt(mixed, parts, seed), strict=True)) == part


@pytest.mark.parametrize("valid", [None, judged(10, seed=5, prefix="v")])
def test_no_fold_is_trained_or_stopped_on_what_it_is_scored_on(valid):
    train = judged()
    folds = Folds.of(train, valid, number=FOLDS, seed=3)
    scored: list[str] = []
    for number in range(FOLDS):
        fit, stop, held_out = (set(part["qid"]) for part in folds.fold(number))
        assert not held_out & (fit | stop)
        assert not fit & stop
        assert stop == (set(valid["qid"]) if valid is not None else set(train["qid"]) - held_out - fit)
        assert len(stop) >= 5
        whole = train.filter(pl.col("qid").is_in(list(held_out)))
        assert folds.fold(number)[2].equals(whole), "a query lost rows"
        scored += held_out
    assert sorted(scored) == sorted(set(train["qid"]))


def test_the_training_function_never_sees_the_held_out_queries(tmp_path):
    fit = FakeFit()
    search(tmp_path, fit, trials=1)
    seen = [call["train"] | call["valid"] for call in fit.calls]
    everything = set(judged()["qid"])
    held_out = [everything - each for each in seen]
    assert all(len(each) == len(everything) // FOLDS for each in held_out)
    assert set.union(*held_out) == everything


def test_the_value_is_the_mean_over_all_queries_in_the_stated_convention(tmp_path):
    """Ideal rankings: NDCG is 1 wherever it is defined, so the value is what blank queries count."""
    train = judged().with_columns(good=pl.col("relevance").cast(pl.Float32))
    perfect = FakeFit()
    values = {}
    for blank in ("one", "zero", "skip"):
        with_default_rate = train.with_columns(noise=pl.lit(0, pl.Float32))
        values[blank] = search(tmp_path, perfect, train=with_default_rate, trials=1, blank=blank).trials[0].value
    assert values == pytest.approx({"one": 1.0, "zero": 0.8, "skip": 1.0})
    found = search(tmp_path, perfect, train=train, trials=1)
    assert (found.queries, found.blank_queries) == (40, 8)


def test_the_first_trial_is_the_ranker_as_it_is_and_the_best_is_no_worse(tmp_path):
    fit = FakeFit()
    found = search(tmp_path, fit, trials=25)
    as_it_is = ltr_settings.defaults("regression", rows=1000)
    assert found.trials[0].settings == {**defaults(space_of("regression")), **as_it_is}
    assert found.trials[0].state == "complete"
    assert found.best.value is not None
    assert found.trials[0].value is not None
    assert found.best.value >= found.trials[0].value
    # The farther the learning rate is from 0.1, the worse: the best trial is near it, and it is said to matter.
    assert abs(np.log(found.best.settings["learning_rate"] / 0.1)) < 0.7  # type: ignore[operator]
    assert next(iter(found.importance)) == "learning_rate"
    assert sum(found.importance.values()) == pytest.approx(1)
    assert found.count("pruned") > 0
    assert all(0 < len(trial.folds) < FOLDS for trial in found.trials if trial.state == "pruned")
    assert all(len(trial.folds) == FOLDS for trial in found.trials if trial.state == "complete")
    assert len(fit.calls) == sum(len(trial.folds) for trial in found.trials)
    written = json.loads(found.settings_file.read_text())
    assert written == {"ranker": "regression", "settings": dict(found.best.settings)}
    json.dumps(found.as_json(), allow_nan=False)


def test_a_search_in_two_parts_is_the_search_in_one(tmp_path):
    one, two = FakeFit(), FakeFit()
    whole = search(tmp_path / "one", one, trials=12)
    search(tmp_path / "two", two, trials=5)
    assert len(search(tmp_path / "two", two, trials=4).trials) == 5, "fewer than there are: nothing to do"
    calls = len(two.calls)
    parts = search(tmp_path / "two", two, trials=12)
    assert calls == sum(len(trial.folds) for trial in whole.trials[:5])
    assert told(parts) == told(whole)
    assert [call["settings"] for call in two.calls] == [call["settings"] for call in one.calls]
    other = search(tmp_path / "two", FakeFit(), trials=12, seed=1)
    assert told(other)[1:] != told(whole)[1:]
    assert other.study != whole.study


CHILD = """
import os, sys, time
sys.path.insert(0, {root!r})
from tests.pipeline.test_tune import *

def slow(settings):
    time.sleep(0.02)
    os.write(3, (json.dumps(sorted(settings.items())) + "\\n").encode())

print(json.dumps(told(search(Path(sys.argv[1]), FakeFit(before=slow), trials=7))))
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path):
    draw = random.Random(7)
    whole = search(tmp_path / "whole", FakeFit(), trials=7)
    fitted = tmp_path / "fitted"
    kills = 0
    command = [sys.executable, "-c", CHILD.format(root=str(ROOT)), str(tmp_path / "killed")]
    shell = ["bash", "-c", 'exec 3>>"$0"; exec "$@"', str(fitted), *command]
    while True:
        process = subprocess.Popen(shell, cwd=ROOT, stdout=subprocess.PIPE)
        lines = fitted.read_text().count("\n") if fitted.exists() else 0
        # It is killed a little after its first fold, or is let run to its end once it has been killed three times.
        while process.poll() is None and kills < 3:
            if fitted.exists() and fitted.read_text().count("\n") > lines:
                time.sleep(draw.uniform(0, 0.2))
                process.kill()
                break
            time.sleep(0.005)
        output = process.communicate(timeout=120)[0]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills == 3
    assert json.loads(output) == json.loads(json.dumps(told(whole)))
    fits = fitted.read_text().count("\n")
    needed = sum(len(trial.folds) for trial in whole.trials)
    assert needed <= fits <= needed + kills, "a fold that was scored was fitted again"


def test_when_the_time_is_up_the_folds_that_were_scored_are_kept(tmp_path, caplog):
    fit = FakeFit(before=lambda settings: time.sleep(0.06))
    with caplog.at_level(logging.WARNING):
        found = search(tmp_path, fit, trials=10, timeout=0.8)
    assert 1 <= len(found.trials) < 10
    assert "the time is up" in caplog.text
    whole = FakeFit()
    assert told(search(tmp_path, fit, trials=10)) == told(search(tmp_path / "whole", whole, trials=10))
    assert len(fit.calls) == len(whole.calls)
    with pytest.raises(InputError, match="time was up before a trial ended"):
        search(tmp_path, fit, timeout=1e-9, seed=9)


def test_settings_that_cannot_be_trained_with_fail_alone(tmp_path, caplog):
    def refuse(settings: Mapping[str, Any]) -> None:
        if settings["num_leaves"] > 15:
            raise InputError("too many leaves")

    found = search(tmp_path, FakeFit(before=refuse), trials=8)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert all(trial.error == "too many leaves" and trial.value is None for trial in failed)
    assert len(found.trials) == 8
    assert "a trial failed and the search goes on: too many leaves" in caplog.text

    def refuse_all(settings: Mapping[str, Any]) -> None:
        raise InputError("no GPU")

    with pytest.raises(InputError, match="no GPU"):
        search(tmp_path / "none", FakeFit(before=refuse_all))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"train": judged(seed=1)}, "another data"),
        ({"valid": judged(10, seed=5, prefix="v")}, "another data"),
        ({"ranker": "logistic"}, r"another ranker \(regression, now logistic\)"),
        ({"ranker": "ranknet"}, "another ranker .*another space"),
        ({"folds": 3}, r"another folds \(4, now 3\)"),
        ({"metric": "ndcg_cut_5", "blank": "zero"}, "another metric .*another blank"),
    ],
)
def test_a_study_is_held_to_what_it_was_begun_with(tmp_path, changed, words):
    search(tmp_path, FakeFit(), name="mine", trials=1)
    with pytest.raises(InputError, match=f"study mine: was begun with {words}.*give another --name"):
        search(tmp_path, FakeFit(), name="mine", trials=2, **changed)
    assert len(search(tmp_path, FakeFit(), name="mine", trials=1).trials) == 1


def test_what_cannot_be_searched_is_refused(tmp_path):
    for options, words in (
        ({"trials": 0}, "trials must be at least 1"),
        ({"folds": 1}, "folds must be at least 2; found 1"),
        ({"folds": 20}, "32 queries have a relevant document; 20 folds need 40"),
        ({"ranker": "blend"}, "a blend has nothing to search"),
        ({"ranker": "lambdmart"}, "did you mean 'lambdamart'"),
        ({"metric": "ndcg"}, "ndcg"),
        ({"name": "../up"}, "study '../up': a name is"),
        ({"valid": judged(3)}, "query 'q000' is in train and in valid, one of 3; keep it in one"),
        ({"valid": judged(3, prefix="v").drop("noise")}, "do not have the same columns: noise"),
    ):
        with pytest.raises(InputError, match=words):
            search(tmp_path, FakeFit(), **options)
    assert not list(tmp_path.rglob("*.json"))


def test_two_processes_do_not_search_one_study(tmp_path):
    with (
        open_study(tmp_path, "mine", {"ranker": "x"}),
        pytest.raises(InputError, match="study mine: another process is searching it"),
        open_study(tmp_path, "mine", {"ranker": "x"}),
    ):
        pass
    with open_study(tmp_path, "other", {"ranker": "x"}), open_study(tmp_path, "mine", {"ranker": "x"}):
        pass


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning" / "studies.db").write_text("not a database, whatever its name says" * 100)
    with pytest.raises(CascadeError, match=r"studies\.db: Optuna failed .*move it away"):
        search(tmp_path, FakeFit())
    with pytest.raises(InputError, match="cannot use a path with '#'"):
        search(tmp_path / "a#b", FakeFit())


@pytest.mark.parametrize("name", [name for name in RANKERS if name != BLEND])
def test_every_space_is_of_the_rankers_own_settings_and_starts_from_its_defaults(name):
    space = space_of(name)
    assert set(space) <= set(build.ranker_settings(name))
    functions = [fit_trees] if RANKERS[name].kind == "trees" else [fit_network, *_loss(name)]
    own: dict[str, Any] = {}
    for function in functions:
        for option in inspect.signature(function).parameters.values():
            own[option.name] = option.default
    for setting, values in space.items():
        default = list(own[setting]) if isinstance(own[setting], tuple) else own[setting]
        assert values.default == default, setting
        assert (
            values.default in values.options
            if isinstance(values, OneOf)
            else values.low <= values.default <= values.high
        )


def _loss(name: str) -> list[Callable[..., Any]]:
    from rankers.training import _LOSSES

    loss = _LOSSES.get(name.removesuffix("+attention"))
    return [] if loss is None else [getattr(loss, "func", loss)]


@pytest.mark.parametrize("name", [name for name in RANKERS if name != BLEND])
@pytest.mark.parametrize("end", ["low", "high"])
def test_both_ends_of_every_space_can_be_trained_with(name, end):
    at = 0 if end == "low" else -1
    space = space_of(name)
    corner = {
        setting: values.options[at] if isinstance(values, OneOf) else getattr(values, end)
        for setting, values in space.items()
    }
    short = {"rounds": 2} if RANKERS[name].kind == "trees" else {"epochs": 1}
    train, valid = judged(20), judged(8, seed=1, prefix="v")
    ranker = build.fit_ranker(name, train, valid, seed=0, log=lambda metrics, step: None, settings={**corner, **short})
    assert np.isfinite(ranker.score(valid)).all()


def test_a_space_that_changes_is_another_space():
    space = space_of("lambdamart")
    assert space_fingerprint(space) == space_fingerprint(dict(reversed(space.items())))
    assert space_fingerprint(space) != space_fingerprint({**space, "norm": OneOf((True,), default=True)})
    assert space_fingerprint(space_of("ranknet")) != space_fingerprint(space_of("ranknet+attention"))


@pytest.mark.parametrize("name", [name for name in RANKERS if name != BLEND])
def test_a_search_starts_from_what_ltr_trains_with_and_keeps_what_it_does_not_search(name):
    given = ltr_settings.defaults(name, rows=1000)
    space, kept = started_from(space_of(name), given)
    assert {**defaults(space_of(name)), **kept, **given} == {**defaults(space), **kept}
    for values in space.values():
        if isinstance(values, OneOf):
            assert values.default in values.options
        else:
            assert values.low <= values.default <= values.high
    build.check_settings(name, {**kept, **defaults(space)})


def test_settings_that_are_not_searched_reach_every_fit_and_the_file(tmp_path):
    fit = FakeFit()
    found = search(tmp_path, fit, ranker="lambdamart", trials=2)
    kept = {"label_gain": list(range(31))}
    assert found.kept == kept
    assert found.as_settings()["settings"] == {**kept, **found.best.settings}
    assert all(call["settings"]["label_gain"] == kept["label_gain"] for call in fit.calls)
