"""Linear programs that stay alive: another right-hand side gives what a new program would."""

import numpy as np
import pytest

from lightning_pareto.linprog import InfeasibleError
from lightning_pareto.pareto.admissible import AdmissibleSet, column_scale, predicted_gain
from lightning_pareto.reweighting.mass_preserving import MassPreservingProgram
from lightning_pareto.reweighting.paper import PaperProgram

RNG = np.random.default_rng(0)
SCORES = RNG.normal(0.2, 1, size=(120, 3))
LABELS = RNG.integers(3, size=120)


def test_other_thresholds_of_the_papers_program():
    targets = np.array([True, False, False])
    kept = PaperProgram(SCORES, targets, 2.0)
    for alpha in RNG.uniform(size=(10, 3)):
        fresh = PaperProgram(SCORES, targets, 2.0).solve(alpha)
        np.testing.assert_allclose(kept.solve(alpha), fresh, atol=1e-7)


def test_other_floors_and_budgets_of_the_mass_preserving_program():
    admissible, scale, targets = AdmissibleSet(LABELS, 0.4), column_scale(SCORES), np.ones(3, dtype=bool)
    kept = MassPreservingProgram(SCORES, scale, admissible, targets)
    for budget, floor in ((0.4, 0.0), (0.1, 0.02), (0.3, 0.1), (0.2, 0.0)):
        small = AdmissibleSet(LABELS, budget)
        fresh = MassPreservingProgram(SCORES, scale, small, targets).solve(np.full(3, floor))
        found = kept.solve(np.full(3, floor), budget)
        np.testing.assert_allclose(found, fresh, atol=1e-7)
        assert found.sum() <= budget * 120 + 1e-6
        assert (predicted_gain(SCORES, small.weights(found)) / scale >= floor - 1e-7).all()


def test_an_infeasible_floor_does_not_spoil_the_next_solve():
    admissible, scale, targets = AdmissibleSet(LABELS, 0.2), column_scale(SCORES), np.ones(3, dtype=bool)
    program = MassPreservingProgram(SCORES, scale, admissible, targets)
    before = program.solve(np.zeros(3))
    with pytest.raises(InfeasibleError, match="lower the thresholds"):
        program.solve(np.full(3, 5.0))
    np.testing.assert_allclose(program.solve(np.zeros(3)), before, atol=1e-7)
