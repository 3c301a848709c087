"""The headroom LP, checked by hand, by duality and on the trade-off hyperplane."""

import numpy as np
import pytest

from lightning_pareto.influence.gains import column_scale, predicted_gain
from lightning_pareto.pareto.admissible import AdmissibleSet
from lightning_pareto.pareto.headroom import headroom
from lightning_pareto.pareto.sifting import MaxMinProgram
from tests._tolerances import LINEAR_PROGRAM


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return rng.normal(0.1, 1, size=(300, 4)), rng.integers(0, 3, 300)


def solve(scores, labels, budget=0.2):
    scale = column_scale(scores)
    return headroom(scores, scale, AdmissibleSet(labels, budget)), scale


def test_by_hand():
    """One of four samples of a class is harmful. A budget of a quarter gives it up."""
    scores = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [-3.0, -1.0]])
    found, scale = solve(scores, np.zeros(4, int), budget=0.25)
    np.testing.assert_allclose(found.weights, [1.25, 1.25, 1.25, 0.25])
    np.testing.assert_allclose(scale, [1.5, 1.0])
    np.testing.assert_allclose(predicted_gain(scores, found.weights), [0.75, 0.375])
    assert found.value == pytest.approx(0.375)  # the second category gains least: 0.375 / 1
    np.testing.assert_allclose(found.prices, [0, 1], atol=1e-9)


def test_primal_and_dual_agree(problem):
    """h = Σ_k λ_k gain_k/s_k, and no admissible change has a larger λ-weighted gain (strong duality)."""
    scores, labels = problem
    found, scale = solve(scores, labels)
    admissible = AdmissibleSet(labels, 0.2)
    gains = predicted_gain(scores, found.weights) / scale
    assert gains.min() == pytest.approx(found.value, abs=LINEAR_PROGRAM)
    assert found.prices.min() >= 0
    assert found.prices.sum() == pytest.approx(1)
    assert found.prices[gains > found.value + 1e-6].sum() == pytest.approx(0, abs=LINEAR_PROGRAM)
    slopes = np.sort((admissible.slopes(scores) / scale) @ found.prices)[::-1]
    best = slopes[: int(0.2 * 300)].clip(min=0).sum() / 300
    assert found.value == pytest.approx(best, abs=LINEAR_PROGRAM)


def test_weights_are_admissible(problem):
    scores, labels = problem
    found, _ = solve(scores, labels)
    for label in range(3):
        assert found.weights[labels == label].mean() == pytest.approx(1)
    assert found.weights.min() >= 0
    assert np.maximum(1 - found.weights, 0).mean() <= 0.2 + LINEAR_PROGRAM


def test_no_headroom_in_a_pure_trade_off():
    x = np.random.default_rng(0).normal(size=(100, 1))
    found, _ = solve(np.hstack([x, -2 * x]), np.zeros(100, int))
    assert found.value == pytest.approx(0, abs=LINEAR_PROGRAM)
    np.testing.assert_allclose(found.prices, [0.5, 0.5], atol=1e-6)


def test_no_headroom_if_nothing_influences_a_category():
    scores = np.random.default_rng(0).normal(size=(50, 2))
    scores[:, 1] = 0
    assert solve(scores, np.zeros(50, int))[0].value == pytest.approx(0, abs=LINEAR_PROGRAM)


def test_headroom_grows_with_the_budget(problem):
    values = [solve(*problem, budget)[0].value for budget in (0.05, 0.1, 0.2, 0.5)]
    assert values == sorted(values)


def test_price_of_the_capacity_is_the_gain_from_more_budget(problem):
    """A unit of capacity is 1/N of the budget and adds 1/N of its price to the headroom."""
    scores, labels = problem
    admissible = AdmissibleSet(labels, 0.2)
    price = MaxMinProgram(admissible.slopes(scores) / column_scale(scores), admissible.capacity).solve().capacity_price
    less, now, more = (solve(*problem, budget=0.2 + step)[0].value for step in (-1e-4, 0.0, 1e-4))
    assert price > 0
    assert now + 1e-4 * price >= more - LINEAR_PROGRAM
    assert less + 1e-4 * price <= now + LINEAR_PROGRAM
    assert (more - less) / 2e-4 == pytest.approx(price, rel=0.05)
