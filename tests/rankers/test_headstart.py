"""The head start is the best scale of its one feature, by the loss that it serves."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rankers.headstart import HeadStart, fit_listwise, fit_regression
from rankers.slates import Slates
from tests.rankers.synthetic import FEATURES, judged


@pytest.fixture(scope="module")
def slates() -> Slates:
    return Slates.of(judged(60, seed=5), FEATURES, "train")


def listwise_loss(slates: Slates, scores: np.ndarray) -> float:
    """ListNet's cross-entropy, slate by slate."""
    losses, end = [], 0
    for size in slates.sizes:
        s, rel = scores[end : end + size], slates.relevance[end : end + size]
        losses.append(-np.sum(rel / rel.sum() * (s - np.log(np.exp(s - s.max()).sum()) - s.max())))
        end += size
    return float(np.mean(losses))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_listwise_scale_cannot_be_bettered(slates, sign):
    slates = replace(slates, x=slates.x * np.float32(sign))
    start = fit_listwise(slates, FEATURES.index("bm25"))
    assert start.scale * sign > 0
    best = listwise_loss(slates, start(slates.x))
    for factor in (0.0, 0.9, 0.97, 1.03, 1.1, 2.0):
        assert listwise_loss(slates, replace(start, scale=start.scale * factor)(slates.x)) > best


def test_regression_equals_least_squares(slates):
    start = fit_regression(slates, FEATURES.index("bm25"))
    slope, intercept = np.polyfit(slates.x[:, 0].astype(float), slates.relevance, 1)
    np.testing.assert_allclose(start(slates.x), slope * slates.x[:, 0] + intercept, rtol=1e-5)


@pytest.mark.parametrize("fit", [fit_listwise, fit_regression])
def test_missing_values_count_as_the_lowest(slates, fit):
    column = FEATURES.index("dense")
    start = fit(slates, column)
    lowest, missing = np.zeros((1, len(FEATURES))), np.zeros((1, len(FEATURES)))
    lowest[0, column], missing[0, column] = np.nanmin(slates.x[:, column]), np.nan
    assert start(missing) == start(lowest)
    assert np.isfinite(start(slates.x)).all()


@pytest.mark.parametrize("fit", [fit_listwise, fit_regression])
def test_a_feature_that_says_nothing_starts_nowhere(slates, fit):
    start = fit(slates, FEATURES.index("constant"))
    assert start.scale == 0.0
    missing = replace(slates, x=np.full_like(slates.x, np.nan))
    assert np.ptp(fit(missing, 0)(missing.x)) == 0.0


def test_a_feature_that_ranks_perfectly_gets_a_finite_scale(slates):
    perfect = replace(slates, x=slates.relevance[:, None].astype(np.float32))
    assert 0 < fit_listwise(perfect, 0).scale < np.inf


def test_contribution_and_intercept_make_the_score_and_survive_json(slates):
    start = fit_regression(slates, 0)
    np.testing.assert_array_equal(start.contribution(slates.x) + start.intercept, start(slates.x))
    assert abs(start.contribution(slates.x).mean()) < 1e-9
    assert HeadStart.from_json(json.loads(json.dumps(start.to_json()))) == start
