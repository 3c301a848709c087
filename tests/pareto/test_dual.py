"""The smoothed dual: its derivatives, its prices, and how few columns they leave open."""

import numpy as np
import pytest

from lightning_pareto.linprog import INFINITY
from lightning_pareto.pareto.dual import SmoothedDual
from lightning_pareto.pareto.sifting import MaxMinProgram, upper_bound


def problem(n=3_000, k=5, sigma=0.0, targets=None, floors=None, seed=0):
    """Columns whose size is lognormal, of which a fifth raises every row."""
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=(n, k)) + np.where(rng.random(n) < 0.2, 1.0, -0.25)[:, None]
    slopes *= np.exp(sigma * rng.normal(size=(n, 1)))
    targets = np.ones(k, dtype=bool) if targets is None else np.array(targets)
    floors = np.where(targets, 0.0, -INFINITY) if floors is None else np.array(floors)
    top = rng.uniform(0.5, 1.5, n)
    return SmoothedDual(slopes, 0.2 * n, targets, floors, top, np.linalg.norm(slopes, axis=1))


def optimum(dual):
    return MaxMinProgram(dual.slopes, dual.capacity, dual.targets, top=dual.top).solve(dual.floors)


@pytest.mark.parametrize("single", [False, True])
def test_newton_step_solves_the_quadratic_model(single):
    """Derivatives by finite differences; the step leaves the sum of the targets' prices unchanged."""
    targets = np.arange(4) == 3 if single else np.array([True, True, False, True])
    dual = problem(200, 4, sigma=1.0, targets=targets, floors=[0.0, 0.1, 2.0, 0.0])
    point, width = np.array([0.3, 0.5, 0.4, 1.0 if single else 0.2, 0.6]), 0.5

    def objective(x):
        return dual._objective(x, dual._values(x), width)

    def gradient(x):
        return np.array([(objective(x + d) - objective(x - d)) / 2e-5 for d in 1e-5 * np.eye(5)])

    step, decrement = dual._step(point, dual._values(point), width)
    slope = gradient(point)
    bend = np.stack([(gradient(point + d) - gradient(point - d)) / 2e-3 for d in 1e-3 * np.eye(5)])
    left = bend @ step + slope
    fixed = np.append(targets, False)
    assert step[fixed].sum() == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(left[~fixed], 0, atol=2e-4)
    np.testing.assert_allclose(left[fixed], left[fixed][0], atol=2e-4)
    assert decrement == pytest.approx(-slope @ step, rel=1e-4)


@pytest.mark.parametrize("sigma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_prices_are_nearly_optimal_for_heavy_tails_too(sigma, seed):
    dual = problem(20_000, sigma=sigma, seed=seed)
    prices, found = dual.prices(None, 500), optimum(dual)
    assert prices.sum() == pytest.approx(1)
    bound = upper_bound(dual.slopes, dual.capacity, prices, dual.top)
    assert 0 <= bound / found.value - 1 < 1e-3


@pytest.mark.parametrize("start", [None, np.array([0.1, 0.1, 0.1, 0.1, 0.6])])
def test_few_columns_are_open(start):
    dual = problem(20_000, sigma=1.5)
    prices = dual.prices(start, 500)
    found = optimum(dual)
    between = (found.removed > 1e-9) & (found.removed < dual.top - 1e-9)
    values = dual.slopes @ prices
    order = np.argsort(-values)
    threshold = values[order[np.searchsorted(dual.top[order].cumsum(), dual.capacity)]]
    distance = np.abs(values - threshold) / dual.lengths
    assert between.sum() <= 6
    assert (distance[between] <= np.partition(distance, 500)[500]).all()


def test_prices_of_floors():
    targets = [True, True, False, False, False]
    plain = optimum(problem(targets=targets))
    gains = plain.removed @ problem().slopes
    floors = [0.0, 0.0, gains[2] + 100, -INFINITY, gains[4] - 1e6]
    dual = problem(targets=targets, floors=floors)
    prices, found = dual.prices(None, 100), optimum(dual)
    assert prices[3] == 0, "without a floor"
    assert prices[4] < 1e-3, "with a floor that does not bind"
    np.testing.assert_allclose(prices, found.prices, atol=0.02)


def test_unreachable_floors_end_the_search():
    dual = problem(targets=[True, True, True, True, False], floors=[0.0, 0.0, 0.0, 0.0, 1e5])
    assert np.isfinite(dual.prices(None, 100)).all()


def test_one_round_suffices_for_heavy_tails(monkeypatch):
    """Columns are freed by their reduced costs relative to the length of their slopes."""
    dual, sizes = problem(40_000, sigma=2.0), []
    solve_free = MaxMinProgram._solve_free
    monkeypatch.setattr(
        MaxMinProgram, "_solve_free", lambda self, floors: sizes.append(self._free.sum()) or solve_free(self, floors)
    )
    optimum(dual)
    assert sizes == [500]
