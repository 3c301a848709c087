"""Sifting: the solution is optimal over all columns, whatever the initial guess."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize

from lightning_pareto.linprog import LinearProgramError
from lightning_pareto.pareto import sifting
from lightning_pareto.pareto.sifting import FloorsError, MaxMinProgram, upper_bound
from tests._asserts import assert_optimal
from tests._tolerances import LINEAR_PROGRAM


@pytest.fixture
def lp_sizes(monkeypatch):
    """Number of free columns of each LP that is built."""
    sizes = []
    program_over = MaxMinProgram._program_over

    def record(self, *arguments):
        sizes.append(int(self._free.sum()))
        return program_over(self, *arguments)

    monkeypatch.setattr(MaxMinProgram, "_program_over", record)
    return sizes


@pytest.fixture
def sift_early(monkeypatch):
    """Sift programs of more than 20 columns, starting with few free ones."""
    monkeypatch.setattr(sifting, "MAX_DIRECT", 20)
    monkeypatch.setattr(sifting, "LEAST_FREE", 20)


def solve_max_min(slopes, budget):
    return MaxMinProgram(slopes, budget).solve()


def assert_max_min(found, slopes, budget, targets=None, floors=None):
    """Check the KKT conditions over all columns, and strong duality."""
    n, k = slopes.shape
    targets = np.ones(k, dtype=bool) if targets is None else targets
    floors = np.zeros(k) if floors is None else np.where(targets, 0.0, floors)
    assert_optimal(
        SimpleNamespace(
            x=np.append(found.removed, found.value),
            row_duals=np.append(-found.prices, found.capacity_price),
            reduced_costs=np.append(slopes @ found.prices - found.capacity_price, 0.0),
        ),
        objective=np.append(np.zeros(n), 1.0),
        rows=np.block([[slopes.T, -1.0 * targets[:, None]], [np.ones((1, n)), np.zeros((1, 1))]]),
        row_lower=np.append(floors, -np.inf),
        row_upper=np.append(np.full(k, np.inf), budget),
        lower=np.append(np.zeros(n), -np.inf),
        upper=np.append(np.ones(n), np.inf),
    )
    gains = found.removed @ slopes
    assert found.prices[targets].sum() == pytest.approx(1)
    assert found.value == pytest.approx(gains[targets].min(), abs=LINEAR_PROGRAM)
    assert (gains[~targets] >= floors[~targets] - LINEAR_PROGRAM).all()
    priced = found.prices[~targets] > 0
    bound = upper_bound(slopes, budget, found.prices) - found.prices[~targets][priced] @ floors[~targets][priced]
    assert found.value == pytest.approx(bound, abs=LINEAR_PROGRAM)


def best_by_scipy(slopes, budget, targets=None, floors=None):
    """Optimal value of the LP by SciPy, NaN if it is infeasible."""
    n, k = slopes.shape
    targets = np.ones(k, dtype=bool) if targets is None else targets
    rows = np.block([[-slopes.T, 1.0 * targets[:, None]], [np.ones((1, n)), np.zeros((1, 1))]])
    limits = np.append(np.zeros(k) if floors is None else np.where(targets, 0.0, -floors), budget)
    bounds = [(0, 1)] * n + [(None, None)]
    found = optimize.linprog(np.append(np.zeros(n), -1.0), A_ub=rows, b_ub=limits, bounds=bounds)
    return np.nan if found.status == 2 else -found.fun


@pytest.mark.parametrize("seed", range(12))
def test_is_optimal_for_all_columns(seed, sift_early, lp_sizes):
    rng = np.random.default_rng(seed)
    n, k = 400, 1 + seed % 6
    slopes = rng.standard_t(3, size=(n, k)) + np.where(rng.random(n) < 0.2, rng.normal(), 0)[:, None]
    budget = (0.01, 0.2, 0.5, 1.0)[seed % 4] * n
    found = solve_max_min(slopes, budget)
    assert max(lp_sizes) < n
    assert_max_min(found, slopes, budget)
    assert found.value == pytest.approx(best_by_scipy(slopes, budget), abs=LINEAR_PROGRAM)


@pytest.mark.parametrize("seed", range(5))
def test_recovers_from_a_wrong_guess(seed, sift_early, lp_sizes, monkeypatch):
    """The guess fixes random columns at 1, as many as the budget allows. They are freed step by step."""
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=(400, 3))
    guess = rng.permutation(np.linspace(-4, 1, 400))
    monkeypatch.setattr(MaxMinProgram, "_reduced", lambda self, prices: guess)
    found = MaxMinProgram(slopes, 80.0, start=np.ones(3)).solve()
    assert len(lp_sizes) > 2
    assert all(after <= 2 * before for before, after in itertools.pairwise(lp_sizes))
    assert_max_min(found, slopes, 80.0)


def test_pure_trade_off_has_value_zero(sift_early):
    """All columns are on the hyperplane with normal (1/2, 1/2), so all reduced costs are zero at the optimum."""
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
    ids=["zeros", "ties", "only harm", "tiny", "large", "copies", "sorted", "a zero column"],
)
@pytest.mark.parametrize("budget", [0.5, 20.0, 100.0])
def test_degenerate_columns(slopes, budget, sift_early):
    assert_max_min(solve_max_min(slopes, budget), slopes, budget)


def test_uncertified_value_is_rejected(sift_early, monkeypatch):
    monkeypatch.setattr(sifting, "MISPLACED", np.inf)
    monkeypatch.setattr(MaxMinProgram, "_reduced", lambda self, prices: np.linspace(-4, 1, len(self._slopes)))
    with pytest.raises(LinearProgramError, match=r"a duality gap of .* per sample.*np\.abs\(influence\.scores\)"):
        solve_max_min(np.random.default_rng(0).normal(size=(400, 3)), 80.0)


def test_large_lp_is_never_solved_over_all_columns(lp_sizes):
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(40_000, 5)) + np.where(rng.random(40_000) < 0.2, 1.0, -0.25)[:, None]
    found = solve_max_min(slopes, 8_000.0)
    assert max(lp_sizes) < 8_000
    assert upper_bound(slopes, 8_000.0, found.prices) == pytest.approx(found.value, abs=LINEAR_PROGRAM * 40_000)
    assert found.removed.sum() <= 8_000 + LINEAR_PROGRAM


def floors_problem(seed, n=400):
    """Two targets, and two other categories that lose when the targets gain."""
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=(n, 4)) + np.where(rng.random(n) < 0.2, 0.5, -0.1)[:, None]
    slopes[:, 2] -= 0.8 * slopes[:, 0]
    slopes[:, 3] -= 0.8 * slopes[:, 1]
    return slopes, 0.2 * n, np.array([True, True, False, False])


@pytest.mark.parametrize("floor", [-np.inf, -5.0, 0.0, 4.0])
@pytest.mark.parametrize("seed", range(6))
def test_floors_are_held_optimally(seed, floor, sift_early, lp_sizes):
    slopes, budget, targets = floors_problem(seed)
    floors = np.array([99.0, 99.0, floor, floor / 2])  # the entries of the targets are ignored
    found = MaxMinProgram(slopes, budget, targets).solve(floors)
    assert max(lp_sizes) < len(slopes)
    assert_max_min(found, slopes, budget, targets, floors)
    floors[floors == -np.inf] = -1e6
    assert found.value == pytest.approx(best_by_scipy(slopes, budget, targets, floors), abs=LINEAR_PROGRAM)


def test_price_of_a_floor_is_the_gain_from_lowering_it():
    slopes, budget, targets = floors_problem(0)
    program = MaxMinProgram(slopes, budget, targets)
    found = program.solve(np.zeros(4))
    assert found.prices[2:].min() > 0.01
    for k in (2, 3):
        values = [program.solve(np.where(np.arange(4) == k, change, 0.0)).value for change in (-1e-3, 1e-3)]
        assert (values[0] - values[1]) / 2e-3 == pytest.approx(found.prices[k], rel=1e-3)


FLOORS = (-1.0, 0.5, 3.0, -20.0, 0.0)


def test_new_floors_start_from_the_last_basis(lp_sizes):
    """The solutions are optimal, and no new LP is built as long as the free columns suffice."""
    slopes, budget, targets = floors_problem(1)
    program = MaxMinProgram(slopes, budget, targets)
    program.solve(np.zeros(4))
    lp_sizes.clear()
    for floor in FLOORS:
        floors = np.full(4, floor)
        assert_max_min(program.solve(floors), slopes, budget, targets, floors)
    assert lp_sizes == []


def test_new_floors_replace_the_free_columns(sift_early, lp_sizes):
    """If the free columns do not suffice, others replace them instead of adding up."""
    slopes, budget, targets = floors_problem(1)
    program = MaxMinProgram(slopes, budget, targets)
    for floor in 4 * FLOORS:
        floors = np.full(4, floor)
        assert_max_min(program.solve(floors), slopes, budget, targets, floors)
    assert lp_sizes[-1] < len(slopes)


@pytest.mark.parametrize("seed", range(6))
def test_unreachable_floors_are_approached_as_closely_as_possible(seed, sift_early, lp_sizes):
    slopes, budget, targets = floors_problem(seed)
    program = MaxMinProgram(slopes, budget, targets)
    largest = MaxMinProgram(slopes[:, 2:], budget).solve().value  # the most that both can reach
    for floor in (1.001 * largest, 2 * largest):
        with pytest.raises(FloorsError, match=f"missed by at least {floor - largest:.3g}") as caught:
            program.solve(np.full(4, floor))
        assert (caught.value.nearest @ slopes)[2:].min() == pytest.approx(largest, abs=LINEAR_PROGRAM)
        assert np.isnan(best_by_scipy(slopes, budget, targets, np.full(4, floor)))
    floors = np.full(4, 0.999 * largest)
    assert_max_min(program.solve(floors), slopes, budget, targets, floors)
    assert max(lp_sizes) < len(slopes)


def test_floors_that_the_initial_guess_cannot_reach(sift_early, lp_sizes, monkeypatch):
    """With a wrong guess the floors are out of reach until enough columns are freed."""
    slopes, budget, targets = floors_problem(2)
    guess = np.random.default_rng(0).permutation(np.linspace(-4, 1, 400))
    monkeypatch.setattr(MaxMinProgram, "_reduced", lambda self, prices: guess)
    floors = np.full(4, 8.0)
    found = MaxMinProgram(slopes, budget, targets, start=np.ones(4)).solve(floors)
    assert len(lp_sizes) > 3
    assert_max_min(found, slopes, budget, targets, floors)
