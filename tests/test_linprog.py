"""Linear programs: solutions are checked by their KKT conditions."""

import numpy as np
import pytest

from lightning_pareto.linprog import INFINITY, InfeasibleError, LinearProgram, LinearProgramError
from tests._asserts import assert_optimal


def random_problem(seed, m=4, n=60):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(m, n))
    return {
        "objective": rng.normal(size=n),
        "rows": rows,
        "row_lower": np.where(rng.random(m) < 0.5, -INFINITY, -rng.random(m)),
        "row_upper": np.where(rng.random(m) < 0.5, INFINITY, rng.random(m)),
        "lower": np.zeros(n),
        "upper": rng.random(n) * 2,
    }


@pytest.mark.parametrize("seed", range(20))
def test_solution_satisfies_the_kkt_conditions(seed):
    problem = random_problem(seed)
    assert_optimal(LinearProgram(**problem).solve(), **problem)


def test_warm_start_agrees_with_cold_start():
    problem = random_problem(3)
    program = LinearProgram(**problem)
    program.solve()
    problem["row_lower"], problem["row_upper"] = np.full(4, -0.1), np.full(4, 0.2)
    program.set_row_bounds(problem["row_lower"], problem["row_upper"])
    warm = program.solve()
    assert_optimal(warm, **problem)
    assert warm.objective == pytest.approx(LinearProgram(**problem).solve().objective)


def test_errors_are_typed():
    box = {"objective": np.ones(2), "rows": np.ones((1, 2)), "lower": np.zeros(2)}
    with pytest.raises(InfeasibleError):
        LinearProgram(**box, row_lower=np.array([3.0]), row_upper=np.array([4.0]), upper=np.ones(2)).solve()
    with pytest.raises(LinearProgramError, match="Unbounded"):
        LinearProgram(**box, row_lower=np.zeros(1), row_upper=np.full(1, INFINITY), upper=np.full(2, INFINITY)).solve()
    bounds = {"row_lower": np.zeros(1), "row_upper": np.ones(1), "upper": np.ones(2)}
    with pytest.raises(LinearProgramError, match="must be finite"):
        LinearProgram(**(box | {"objective": np.array([np.nan, 1])}), **bounds)
    with pytest.raises(LinearProgramError, match="rejected the model"):  # otherwise HiGHS would solve an empty model
        LinearProgram(**box, **(bounds | {"upper": np.array([np.nan, 1])}))


def test_the_solver_is_silent(capfd):
    LinearProgram(**random_problem(0)).solve()
    assert capfd.readouterr() == ("", "")
