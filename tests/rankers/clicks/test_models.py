"""The click models against independent oracles: enumeration of what is hidden, and worlds whose truth is known."""

from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from rankers.clicks.cascade import fit_cascade
from rankers.clicks.dbn import DynamicBayesian, _expect, fit_dbn
from rankers.clicks.log import check_log, counts, hold_out
from rankers.clicks.pages import Pages
from rankers.clicks.pbm import PositionBased, fit_pbm
from rankers.clicks.quality import quality
from rankers.clicks.simulate import simulate
from rankers.clicks.users import CascadeUser, DynamicBayesianUser, PositionBasedUser
from retrieval.errors import InputError
from tests.rankers.clicks.worlds import log_of, shown, silent

SMALL = log_of(("q", "abc", "010"), ("q", "bca", "101"), ("q", "cab", "000"), ("q", "abc", "100"), ("r", "de", "01"))


def dbn_paths(clicks: str, a: list[float], s: list[float], g: float):
    """Every hidden story (reads, satisfactions) that ends in these clicks, with its probability: Chapelle and Zhang's
    generative model, told one place at a time."""
    places = range(len(clicks))
    for read, satisfied in product(product((0, 1), repeat=len(clicks)), repeat=2):
        p = float(read[0] == 1)
        for r in places:
            click = clicks[r] == "1"
            if not read[r]:
                p *= float(not click and not satisfied[r])
            elif click:
                p *= a[r] * (s[r] if satisfied[r] else 1 - s[r])
            else:
                p *= (1 - a[r]) * float(not satisfied[r])
            if r + 1 < len(clicks):
                on = g if read[r] and not satisfied[r] else 0.0
                p *= on if read[r + 1] else 1 - on
        if p:
            yield p, read, satisfied


@given(
    clicks=st.text("01", min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    g=st.floats(0.05, 1.0),
)
@settings(max_examples=80, deadline=None)
def test_the_posterior_of_dbn_is_that_of_enumeration(clicks: str, seed: int, g: float) -> None:
    rng = np.random.default_rng(seed)
    a, s = rng.uniform(0.05, 0.95, len(clicks)), rng.uniform(0.05, 0.95, len(clicks))
    pages = Pages.of(log_of(("q", "abcde"[: len(clicks)], clicks), ("q", "abcde", "00100")))
    page = 0
    column = np.zeros(pages.click.shape) + 0.3
    attraction, satisfaction = column.copy(), column.copy()
    attraction[: len(clicks), page], satisfaction[: len(clicks), page] = a, s
    found = _expect(pages, attraction, satisfaction, g)
    stories = list(dbn_paths(clicks, list(a), list(s), g))
    total = sum(p for p, _, _ in stories)
    assert found.log_likelihood[page] == pytest.approx(np.log(total))
    reads = sum(p * np.array(read) for p, read, _ in stories) / total
    ends = sum(p * np.array(satisfied) for p, _, satisfied in stories) / total
    np.testing.assert_allclose(found.read[: len(clicks), page], reads, atol=1e-9)
    np.testing.assert_allclose(found.satisfied[: len(clicks), page], ends, atol=1e-9)


def test_dbn_probabilities_are_those_of_enumeration() -> None:
    a, s, g = [0.7, 0.4, 0.6], [0.5, 0.3, 0.8], 0.85
    parameters = pl.DataFrame(
        {"qid": ["q"] * 3, "docid": list("abc"), "attraction": a, "satisfaction": s, "impressions": [1, 1, 1]}
    )
    model = DynamicBayesian(parameters, g)
    worlds = {c: sum(p for p, _, _ in dbn_paths(c, a, s, g)) for c in map("".join, product("01", repeat=3))}
    assert sum(worlds.values()) == pytest.approx(1.0)
    for clicks in worlds:
        pages = Pages.of(log_of(("q", "abc", clicks)))
        conditional, marginal = model.conditional(pages)[:, 0], model.marginal(pages)[:, 0]
        for r in range(3):
            above = sum(p for c, p in worlds.items() if c[:r] == clicks[:r])
            clicked = sum(p for c, p in worlds.items() if c[:r] == clicks[:r] and c[r] == "1")
            assert conditional[r] == pytest.approx(clicked / above)
            assert marginal[r] == pytest.approx(sum(p for c, p in worlds.items() if c[r] == "1"))


@pytest.mark.parametrize("fit", [lambda log, s: fit_pbm(counts(log), log=s, smoothing=0.0),
                                 lambda log, s: fit_dbn(log, log=s, smoothing=0.0)])  # fmt: skip
def test_no_iteration_of_em_lowers_the_likelihood(fit) -> None:
    log = simulate(shown(20, 6), DynamicBayesianUser(0.8, 0.7), sessions=3000, seed=1, swap=0.5)
    steps = []
    fit(log, lambda metrics, step: steps.append(metrics["log_likelihood"]))
    assert len(steps) > 5
    assert np.diff(steps).min() > -1e-12
    assert steps[-1] > steps[0]


def test_the_cascade_is_counted_by_hand() -> None:
    model = fit_cascade(SMALL, log=silent, smoothing=0.0)
    found = dict(zip(model.parameters["docid"], model.parameters["attraction"], strict=True))
    # a: read first on pages 1 and 4, below b's click on page 2, and second on page 3. b: clicked when read on 1 and 2.
    assert found == {"a": pytest.approx(1 / 3), "b": pytest.approx(2 / 3), "c": pytest.approx(0.0),
                     "d": pytest.approx(0.0), "e": pytest.approx(1.0)}  # fmt: skip


def test_the_position_based_model_is_found_again() -> None:
    world = shown(60, 8)
    user = PositionBasedUser(1.0)
    log = simulate(world, user, sessions=60_000, seed=5, swap=1.0)
    model = fit_pbm(counts(log), log=silent)
    examined = np.array(list(model.examination.values()))
    np.testing.assert_allclose(examined, user.examination(8), atol=0.05)
    truth = model.parameters.join(world, on=["qid", "docid"], suffix="_true")
    assert np.abs((truth["attraction"] - truth["attraction_true"]).to_numpy()).mean() < 0.06
    assert model.propensities()["propensity"].max() == 1


def test_the_dynamic_bayesian_network_is_found_again() -> None:
    world = shown(10, 5, low=0.2)
    log = simulate(world, DynamicBayesianUser(0.8, 0.6), sessions=30_000, seed=5, swap=1.0)
    model = fit_dbn(log, log=silent)
    assert model.continuation == pytest.approx(0.8, abs=0.03)
    truth = model.parameters.join(world, on=["qid", "docid"], suffix="_true")
    assert np.abs((truth["attraction"] - truth["attraction_true"]).to_numpy()).mean() < 0.02
    satisfied = truth["satisfaction"] - 0.6 * truth["attraction_true"]
    assert np.abs(satisfied.to_numpy()).mean() < 0.06
    relevance = model.relevance().join(truth, on=["qid", "docid"])
    assert (relevance["relevance"] - relevance["attraction"] * relevance["satisfaction"]).abs().max() < 1e-6
    assert fit_dbn(log, log=silent, continuation=0.5).continuation == 0.5


@pytest.mark.parametrize(
    ("name", "user"),
    [("pbm", PositionBasedUser(1.0)), ("cascade", CascadeUser()), ("dbn", DynamicBayesianUser(0.7, 0.9))],
)
def test_each_model_predicts_its_own_user_best(name: str, user) -> None:
    rest, held = hold_out(simulate(shown(30, 8), user, sessions=20_000, seed=2, swap=0.5), 0.25)
    found = {
        "pbm": quality(fit_pbm(counts(rest), log=silent), held),
        "cascade": quality(fit_cascade(rest, log=silent), held),
        "dbn": quality(fit_dbn(rest, log=silent), held),
    }
    assert max(found, key=lambda model: found[model].log_likelihood) == name
    best = min(found, key=lambda model: found[model].perplexity)
    # The cascade is the Bayesian network whose every click satisfies, which comes to the same within sampling noise.
    assert found[name].perplexity <= found[best].perplexity + (2e-3 if name == "cascade" else 0)
    assert all(1 <= value <= 2.1 for value in found[name].by_position.values())


def test_perplexity_by_hand() -> None:
    model = fit_pbm(counts(log_of(("q", "ab", "10"), ("q", "ab", "00"))), log=silent, smoothing=0.0)
    found = quality(model, log_of(("q", "ab", "10"), ("q", "ab", "10"), ("q", "ab", "00"), ("q", "ab", "00")))
    assert found.by_position[1] == pytest.approx(2.0, abs=1e-3)  # a fair coin
    assert found.by_position[2] == pytest.approx(1.0, abs=1e-3)  # never clicked, and known to be
    assert found.perplexity == pytest.approx(1.5, abs=1e-3)
    assert found.log_likelihood == pytest.approx(np.log(0.5), abs=1e-3)
    assert (found.pages, found.unseen) == (4, 0)
    assert quality(model, log_of(("q", "ax", "10"))).unseen == 0.5


def test_fits_do_not_depend_on_the_order_of_rows() -> None:
    log = simulate(shown(10, 5), DynamicBayesianUser(), sessions=500, seed=3)
    shuffled = log.sample(fraction=1.0, shuffle=True, seed=9)
    for fit in (lambda rows: fit_pbm(counts(rows), log=silent), lambda rows: fit_cascade(rows, log=silent),
                lambda rows: fit_dbn(rows, log=silent)):  # fmt: skip
        one, other = fit(log), fit(shuffled)
        assert_frame_equal(one.parameters, other.parameters)


def test_positions_that_were_not_seen_are_examined_as_the_next_deeper_or_the_deepest() -> None:
    model = PositionBased(
        pl.DataFrame({"qid": ["q"], "docid": ["a"], "attraction": [0.5], "impressions": [9]}), {1: 1.0, 3: 0.4, 5: 0.2}
    )
    rows = [("q", "a", position, False, f"s{position}") for position in (1, 2, 3, 4, 5, 9)]
    log = pl.DataFrame(rows, schema=SMALL.schema, orient="row")
    assert sorted(model.marginal(Pages.of(log)).ravel()) == pytest.approx([0.1, 0.1, 0.1, 0.2, 0.2, 0.5])


def test_pages_keep_the_positions_that_the_log_has() -> None:
    log = SMALL.filter(pl.col("docid") != "a").sample(fraction=1.0, shuffle=True, seed=4)
    pages = Pages.of(log)
    assert pages.click.shape == (2, 5)
    assert pages.shown.sum() == log.height
    assert pages.position[pages.shown].sum() == log["position"].sum()
    assert pages.sums(pages.click.astype(float)).sum() == log["click"].sum()
    assert (pages.position[1][pages.shown[1]] > pages.position[0][pages.shown[1]]).all()


def test_what_cannot_be_told_apart_is_said(caplog) -> None:
    fit_pbm(counts(log_of(("q", "ab", "10"), ("q", "ab", "00"))), log=silent)
    assert "cannot be told apart" in caplog.text


def test_parameters_stay_probabilities_without_smoothing() -> None:
    log = check_log(log_of(("q", "ab", "11"), ("q", "ba", "11"), ("r", "c", "0")), "log")
    for model in (fit_pbm(counts(log), log=silent, smoothing=0.0), fit_dbn(log, log=silent, smoothing=0.0),
                  fit_cascade(log, log=silent, smoothing=0.0)):  # fmt: skip
        assert model.relevance()["relevance"].is_between(0, 1).all()
        assert np.isfinite(quality(model, log).log_likelihood)


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        (lambda: fit_pbm(counts(SMALL), log=silent, iterations=0), "iterations must be at least 1"),
        (lambda: fit_pbm(counts(SMALL), log=silent, smoothing=-1), "smoothing"),
        (lambda: fit_dbn(SMALL, log=silent, continuation=0.0), "continuation"),
        (lambda: fit_cascade(SMALL.clear(), log=silent), "holds no impression"),
        (lambda: fit_pbm(counts(SMALL).with_columns(clicks=pl.lit(5, dtype=pl.Int64)), log=silent), "5 clicks on 2"),
    ],
)
def test_wrong_settings_are_refused(fit, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fit()
