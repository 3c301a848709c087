"""Reused linear programs give the same solutions as new ones."""

import numpy as np
import pytest
from scipy.optimize import linprog

from lightning_pareto.influence.gains import column_scale, predicted_gain
from lightning_pareto.linprog import InfeasibleError
from lightning_pareto.pareto.admissible import AdmissibleSet
from lightning_pareto.reweighting.mass_preserving import MassPreservingProgram
from lightning_pareto.reweighting.paper import PaperProgram

RNG = np.random.default_rng(0)
SCORES = RNG.normal(0.2, 1, size=(120, 3))
LABELS = RNG.integers(3, size=120)


def test_paper_program_with_new_thresholds():
    targets = np.array([True, False, False])
    reused = PaperProgram(SCORES, targets, 2.0)
    for alpha in RNG.uniform(size=(10, 3)):
        fresh = PaperProgram(SCORES, targets, 2.0).solve(alpha)
        np.testing.assert_allclose(reused.solve(alpha), fresh, atol=1e-7)


def test_mass_preserving_program_with_new_floors_and_budgets():
    admissible, scale, targets = AdmissibleSet(LABELS, 0.4), column_scale(SCORES), np.ones(3, dtype=bool)
    reused = MassPreservingProgram(SCORES, scale, admissible, targets)
    for budget, floor in ((0.4, 0.0), (0.1, 0.02), (0.3, 0.1), (0.2, 0.0)):
        small = AdmissibleSet(LABELS, budget)
        fresh = MassPreservingProgram(SCORES, scale, small, targets).solve(np.full(3, floor))
        found = reused.solve(np.full(3, floor), budget)
        np.testing.assert_allclose(found, fresh, atol=1e-7)
        assert found.sum() <= budget * 120 + 1e-6
        assert (predicted_gain(SCORES, small.weights(found)) / scale >= floor - 1e-7).all()


@pytest.mark.parametrize("targets", [(True, True, True, True), (False, True, False, True)])
def test_sifted_program_has_the_same_optimum_as_the_full_one(targets):
    rng = np.random.default_rng(1)
    labels = rng.integers(4, size=6_000)
    scores = rng.normal(size=(6_000, 4)) * [0.5, 1, 2, 5] + 1.5 * np.eye(4)[labels]
    admissible, scale, chosen = AdmissibleSet(labels, 0.3), column_scale(scores), np.array(targets)
    slopes = admissible.slopes(scores) / scale
    reused = MassPreservingProgram(scores, scale, admissible, chosen)
    for budget, floor in ((0.3, 0.05), (0.3, 0.1), (0.02, 0.0), (0.02, -0.1), (0.6, 0.05)):
        removed = reused.solve(np.full(4, floor), budget)
        expected = linprog(
            -slopes[:, chosen].sum(axis=1),
            A_ub=np.vstack([-slopes.T, np.ones(6_000)]),
            b_ub=np.append(np.full(4, -floor * 6_000), budget * 6_000),
            bounds=(0, 1),
        )
        np.testing.assert_allclose(slopes[:, chosen].sum(axis=1) @ removed, -expected.fun, rtol=1e-6)
        assert removed.sum() <= budget * 6_000 * (1 + 1e-9)
        assert (removed @ slopes >= floor * 6_000 - 1e-3).all()


def test_infeasible_floor_does_not_affect_the_next_solve():
    admissible, scale, targets = AdmissibleSet(LABELS, 0.2), column_scale(SCORES), np.ones(3, dtype=bool)
    program = MassPreservingProgram(SCORES, scale, admissible, targets)
    before = program.solve(np.zeros(3))
    with pytest.raises(InfeasibleError, match="the floors cannot all be reached"):
        program.solve(np.full(3, 5.0))
    np.testing.assert_allclose(program.solve(np.zeros(3)), before, atol=1e-7)
