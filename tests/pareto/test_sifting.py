"""Sifting: optimal for all the columns, whatever it starts from."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from lightning_pareto.linprog import LinearProgramError
from lightning_pareto.pareto import sifting
from lightning_pareto.pareto.sifting import solve_max_min, upper_bound
from tests._asserts import assert_optimal
from tests._tolerances import LINEAR_PROGRAM


@pytest.fixture
def solved(monkeypatch):
    """Numbers of free columns of every LP that was solved."""
    sizes = []
    solve_free = sifting._solve_free

    def record(slopes, budget, removed, free):
        sizes.append(int(free.sum()))
        return solve_free(slopes, budget, removed, free)

    monkeypatch.setattr(sifting, "_solve_free", record)
    return sizes


@pytest.fixture
def small(monkeypatch):
    """Sift already above 20 columns, starting from few."""
    monkeypatch.setattr(sifting, "DIRECT", 20)
    monkeypatch.setattr(sifting, "BAND", 0.0)


def assert_max_min(found, slopes, budget):
    """KKT conditions of the LP over all columns, and strong duality."""
    n, k = slopes.shape
    assert_optimal(
        SimpleNamespace(
            x=np.append(found.removed, found.value),
            row_duals=np.append(-found.prices, found.budget_price),
            reduced_costs=np.append(slopes @ found.prices - found.budget_price, 0.0),
        ),
        objective=np.append(np.zeros(n), 1.0),
        rows=np.block([[slopes.T, -np.ones((k, 1))], [np.ones((1, n)), np.zeros((1, 1))]]),
        row_lower=np.append(np.zeros(k), -np.inf),
        row_upper=np.append(np.full(k, np.inf), budget),
        lower=np.append(np.zeros(n), -np.inf),
        upper=np.append(np.ones(n), np.inf),
    )
    assert found.prices.sum() == pytest.approx(1)
    assert found.value == pytest.approx((found.removed @ slopes).min(), abs=LINEAR_PROGRAM)
    assert found.value == pytest.approx(upper_bound(slopes, budget, found.prices), abs=LINEAR_PROGRAM)


@pytest.mark.parametrize("seed", range(12))
def test_is_optimal_for_all_columns(seed, small, solved):
    rng = np.random.default_rng(seed)
    n, k = 400, 1 + seed % 6
    slopes = rng.standard_t(3, size=(n, k)) + np.where(rng.random(n) < 0.2, rng.normal(), 0)[:, None]
    budget = (0.01, 0.2, 0.5, 1.0)[seed % 4] * n
    found = solve_max_min(slopes, budget)
    assert max(solved) < n
    assert_max_min(found, slopes, budget)
    whole = sifting._solve_free(slopes, budget, np.zeros(n), np.ones(n, dtype=bool))
    assert found.value == pytest.approx(whole.value, abs=LINEAR_PROGRAM)


@pytest.mark.parametrize("seed", range(5))
def test_recovers_from_a_guess_that_is_wrong(seed, small, solved, monkeypatch):
    """Random columns fixed at 1, as many as the budget allows: freed step by step."""
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=(400, 3))
    guess = rng.permutation(np.linspace(-4, 1, 400))
    monkeypatch.setattr(sifting, "_guess", lambda slopes, budget: guess)
    found = solve_max_min(slopes, 80.0)
    assert len(solved) > 2
    assert all(after <= 2 * before for before, after in itertools.pairwise(solved))
    assert_max_min(found, slopes, 80.0)


def test_a_one_sided_trade_off_has_the_value_zero(small):
    """Every column lies on the hyperplane with normal (1/2, 1/2): all reduced costs are zero at the optimum."""
    x = np.random.default_rng(0).normal(size=(300, 1))
    found = solve_max_min(np.hstack([x, -x]), 60.0)
    assert found.value == pytest.approx(0, abs=LINEAR_PROGRAM)
    np.testing.assert_allclose(found.prices, [0.5, 0.5], atol=1e-6)


@pytest.mark.parametrize(
    "slopes",
    [
        np.zeros((100, 3)),
        np.ones((100, 3)),
        -np.ones((100, 3)),
        1e-8 * np.random.default_rng(0).normal(size=(100, 3)),
        1e3 * np.random.default_rng(0).normal(size=(100, 3)),
        np.tile(np.random.default_rng(0).normal(size=(10, 3)), (10, 1)),
        np.sort(np.random.default_rng(0).normal(size=(100, 3)), axis=0),
        np.column_stack([np.random.default_rng(0).normal(size=(100, 2)), np.zeros(100)]),
    ],
    ids=["nothing", "ties", "only harm", "rounding", "large", "copies", "sorted", "a category that nothing reaches"],
)
@pytest.mark.parametrize("budget", [0.5, 20.0, 100.0])
def test_degenerate_columns(slopes, budget, small):
    assert_max_min(solve_max_min(slopes, budget), slopes, budget)


def test_a_value_that_its_prices_do_not_prove_is_refused(small, monkeypatch):
    monkeypatch.setattr(sifting, "WRONG_SIDE", np.inf)
    monkeypatch.setattr(sifting, "_guess", lambda slopes, budget: np.linspace(-4, 1, len(slopes)))
    with pytest.raises(LinearProgramError, match=r"the prices leave a gap of .* per sample"):
        solve_max_min(np.random.default_rng(0).normal(size=(400, 3)), 80.0)


def test_never_solves_a_large_lp_whole(solved):
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(40_000, 5)) + np.where(rng.random(40_000) < 0.2, 1.0, -0.25)[:, None]
    found = solve_max_min(slopes, 8_000.0)
    assert max(solved) < 8_000
    assert upper_bound(slopes, 8_000.0, found.prices) == pytest.approx(found.value, abs=LINEAR_PROGRAM * 40_000)
    assert found.removed.sum() <= 8_000 + LINEAR_PROGRAM
