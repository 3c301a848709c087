"""First-order gains of sample weights, and the scale that makes them comparable."""

import numpy as np
import pytest

from lightning_pareto import InfluenceMatrix, check_pareto, reweight
from lightning_pareto.influence.gains import column_scale, predicted_gain


@pytest.fixture
def scores():
    """Three categories: one that is influenced, one without validation samples, and one that nothing influences."""
    found = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    found[:, 1], found[:, 2] = np.nan, 0.0
    return found


def test_scale_is_the_mean_absolute_influence(scores):
    matrix = InfluenceMatrix(scores, np.arange(50) % 3)
    expected = sum(abs(float(score)) for score in scores[:, 0]) / 50
    np.testing.assert_allclose(matrix.scale, [expected, np.nan, 1.0])
    assert matrix.scale.dtype == np.float64
    np.testing.assert_array_equal(matrix.scale, column_scale(scores))


def test_predicted_gain_by_hand(scores):
    matrix, weights = InfluenceMatrix(scores, np.arange(50) % 3), np.random.default_rng(1).uniform(0, 2, 50)
    expected = sum((w - 1) * float(score) for w, score in zip(weights, scores[:, 0], strict=True)) / 50
    np.testing.assert_allclose(matrix.predicted_gain(weights), [expected, np.nan, 0.0])
    np.testing.assert_allclose(predicted_gain(scores, weights), [expected, np.nan, 0.0])
    np.testing.assert_array_equal(matrix.predicted_gain(np.ones(50)), [0.0, np.nan, 0.0])
    np.testing.assert_allclose(matrix.predicted_gain(np.zeros(50)), -scores.mean(axis=0, dtype=np.float64), atol=1e-12)


def test_weights_and_verdict_use_the_same_gain_and_scale(scores):
    matrix = InfluenceMatrix(scores[:, :2], np.arange(50) % 3)
    weights, verdict = reweight(matrix), check_pareto(matrix)
    np.testing.assert_array_equal(weights.predicted_gain, matrix.predicted_gain(weights.values))
    assert np.isnan(weights.predicted_gain).tolist() == [False, True]
    np.testing.assert_array_equal(verdict.scale, matrix.scale)


def test_influence_remembers_what_the_fit_was_asked():
    influence = InfluenceMatrix(
        np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2, metadata={"budget": 0.35, "level": 0.2}
    )
    verdict = check_pareto(influence)
    assert (verdict.budget, verdict.level) == (0.35, 0.2)
    assert reweight(influence).metadata["budget"] == 0.35
    assert reweight(influence, budget=0.1).metadata["budget"] == 0.1
    assert check_pareto(influence, budget=0.1, level=0.01).level == 0.01
    by_hand = InfluenceMatrix(influence.scores, influence.labels)
    assert (check_pareto(by_hand).budget, check_pareto(by_hand).level) == (0.2, 0.05)
    np.testing.assert_array_equal(reweight(by_hand, budget=0.35).values, reweight(influence).values)
