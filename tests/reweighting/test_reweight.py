"""Weights from both LPs: constraints, optimality and errors."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_pareto import InfluenceMatrix, SampleWeights, check_pareto, reweight
from lightning_pareto.data.labels import fingerprint_of_labels
from lightning_pareto.influence.gains import column_scale
from lightning_pareto.pareto.admissible import AdmissibleSet
from lightning_pareto.reweighting.mass_preserving import give_back
from lightning_pareto.reweighting.paper import PaperProgram
from tests._asserts import assert_optimal
from tests._tolerances import LINEAR_PROGRAM


@pytest.fixture
def influence():
    rng = np.random.default_rng(0)
    return InfluenceMatrix(rng.normal(0.05, 1, (200, 3)), rng.integers(0, 3, 200), ["cat", "dog", "cow"])


@pytest.mark.parametrize("return_mass", ["additive", "multiplicative"])
def test_mass_of_every_class_is_kept(influence, return_mass):
    weights = reweight(influence, budget=0.3, return_mass=return_mass)
    for label in range(3):
        assert weights.values[influence.labels == label].sum() == pytest.approx((influence.labels == label).sum())
    assert weights.values.min() >= 0


def test_predicts_no_loss_and_reports_the_predicted_gain(influence):
    weights = reweight(influence)
    assert (weights.predicted_gain >= -LINEAR_PROGRAM).all()
    np.testing.assert_allclose(weights.predicted_gain, (weights.values - 1) @ influence.scores / 200)
    assert weights.moved <= 0.2 + LINEAR_PROGRAM


def test_weights_reach_the_lagrangian_bound(influence):
    """For any multipliers y of the floors, the best d of the relaxed problem is an upper bound on the optimum."""
    from scipy.optimize import minimize

    admissible, scale = AdmissibleSet(influence.labels, 0.2), column_scale(influence.scores)
    slopes = admissible.slopes(influence.scores) / scale
    weights = reweight(influence, targets=["dog"])
    value = weights.predicted_gain[1] / scale[1]

    def bound(log_y):
        relaxed = slopes @ (np.eye(3)[1] + np.exp(log_y))
        return np.sort(relaxed)[::-1][:40].clip(min=0).sum() / 200

    best = min(minimize(bound, start * np.ones(3), method="Nelder-Mead").fun for start in (-3.0, -1.0, 0.0))
    assert value <= best + LINEAR_PROGRAM
    assert value == pytest.approx(best, rel=1e-3)


def test_without_targets_every_category_gets_a_share_of_the_headroom():
    """What helps the cat harms the dog, so the largest sum of gains would neglect one of them."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0.05, 1, (200, 3))
    scores[:, 1] -= 0.8 * scores[:, 0]
    influence = InfluenceMatrix(scores, rng.integers(0, 3, 200), ["cat", "dog", "cow"])
    h, scale = check_pareto(influence).headroom, column_scale(influence.scores)
    fair, greedy = (reweight(influence, thresholds=limit).predicted_gain / scale for limit in (None, 0.0))
    assert greedy.min() < 0.5 * h
    assert fair.min() == pytest.approx(0.6 * h, abs=LINEAR_PROGRAM)
    assert greedy.sum() > fair.sum() + LINEAR_PROGRAM


def test_floors_are_met(influence):
    scale = column_scale(influence.scores)
    weights = reweight(influence, targets=["cat"], thresholds=[0.0, 0.05, 0.02])
    assert (weights.predicted_gain / scale >= np.array([0, 0.05, 0.02]) - LINEAR_PROGRAM).all()
    assert weights.predicted_gain[0] >= reweight(influence, targets=["dog"]).predicted_gain[0]


def test_multiplicative_gives_removed_samples_nothing():
    influence = InfluenceMatrix([[1.0], [1.0], [1.0], [-3.0]], [0, 0, 0, 0])
    np.testing.assert_allclose(reweight(influence, budget=0.25).values, [1.25, 1.25, 1.25, 0.25])
    multiplicative = reweight(influence, budget=0.25, return_mass="multiplicative")
    np.testing.assert_allclose(multiplicative.values, [4 / 3, 4 / 3, 4 / 3, 0])


def test_fully_removed_class_keeps_its_mass():
    influence = InfluenceMatrix([[1.0], [-1.0]], [0, 1])
    for return_mass in ("additive", "multiplicative"):
        assert reweight(influence, budget=1.0, return_mass=return_mass).values.tolist() == [1, 1]


@pytest.mark.parametrize("size", [3, 10, 49, 98])  # sizes whose means of ones round above or below one
def test_fully_removed_large_class_keeps_its_mass(size):
    admissible = AdmissibleSet(np.zeros(size, int), 1.0)
    for return_mass in ("additive", "multiplicative"):
        np.testing.assert_allclose(give_back(np.ones(size), admissible, return_mass), 1)


def test_paper_lp_meets_its_constraints(influence):
    weights = reweight(influence, method="paper", targets=["cat"], thresholds=0.9, max_weight=2)
    scores = influence.scores.astype(np.float64)
    assert ((weights.values @ scores)[[0, 1, 2]] >= 0.9 * scores.sum(axis=0) - 1e-4).all()
    assert weights.values.min() >= 0
    assert weights.values.max() <= 2
    interior = ((weights.values > 1e-9) & (weights.values < 2 - 1e-9)).sum()
    assert interior <= 3, "a vertex has at most as many interior variables as rows"
    assert weights.values @ scores[:, 0] >= scores[:, 0].sum()
    assert abs(weights.values.mean() - 1) > 0.02, "the paper's LP does not keep the total mass"
    np.testing.assert_allclose(weights.predicted_gain, (weights.values - 1) @ scores / 200)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.95])
def test_paper_lp_is_optimal_in_the_units_of_the_paper(seed, threshold):
    """KKT conditions of the published LP, for two targets whose influence differs a hundredfold in scale.

    The duals are recovered from the solution, as reduced costs of weights strictly between the bounds are zero.
    """
    rng = np.random.default_rng(seed)
    scores = rng.normal(0.1, 1, size=(80, 4)) * [100, 1, 10, 1]
    objective, floors = scores[:, 0] + scores[:, 1], threshold * scores.sum(axis=0)
    weights = PaperProgram(scores, np.array([True, True, False, False]), 2.0).solve(np.full(4, threshold))
    inside = (weights > 1e-7) & (weights < 2 - 1e-7)
    binding = np.abs(weights @ scores - floors) < 1e-5 * np.abs(scores).sum(axis=0)
    assert inside.sum() == binding.sum(), "a vertex"
    duals = np.zeros(4)
    duals[binding] = np.linalg.solve(scores[inside][:, binding], objective[inside]) if binding.any() else []
    reduced = objective - scores @ duals
    unit = np.abs(scores).mean(axis=0)  # tolerances are absolute, so scale every row to order one
    assert_optimal(
        SimpleNamespace(x=weights, row_duals=duals * unit, reduced_costs=reduced),
        objective,
        (scores / unit).T,
        floors / unit,
        np.full(4, np.inf),
        np.zeros(80),
        np.full(80, 2.0),
    )


def test_paper_lp_is_optimal_by_brute_force():
    """Enumerates all vertices for three weights under two floors, with two targets of different scale."""
    scores = np.array([[30.0, -1.0], [-20.0, 4.0], [5.0, -2.0]])
    for threshold in (0.0, 0.5, 1.0):
        rows = np.vstack([np.eye(3), np.eye(3), scores.T])
        bounds = np.concatenate([np.zeros(3), np.full(3, 2.0), threshold * scores.sum(axis=0)])
        vertices = []
        for active in map(list, itertools.combinations(range(8), 3)):
            if abs(np.linalg.det(rows[active])) > 1e-9:
                vertices.append(np.linalg.solve(rows[active], bounds[active]))
        vertices = [
            w for w in vertices if w.min() > -1e-9 and w.max() < 2 + 1e-9 and (w @ scores > bounds[6:] - 1e-9).all()
        ]
        best = max(vertices, key=lambda w: w @ scores.sum(axis=1))
        found = PaperProgram(scores, np.array([True, True]), 2.0).solve(np.full(2, threshold))
        np.testing.assert_allclose(found, best, atol=1e-6)


def test_paper_objective_is_the_unscaled_sum():
    """Sample 1 costs the first target 50 and gives the second 3, a loss in the paper's units."""
    scores = np.array([[100.0, 1.0], [-50.0, 3.0]])
    found = PaperProgram(scores, np.array([True, True]), 2.0).solve(np.zeros(2))
    np.testing.assert_allclose(found, [2, 0], atol=1e-7)


def test_paper_lp_without_binding_thresholds_takes_every_helpful_sample():
    scores = np.array([[1.0, 5.0], [-1.0, 5.0], [2.0, 5.0]])
    weights = reweight(InfluenceMatrix(scores, [0, 1, 0]), method="paper", targets=[0], thresholds=0.0)
    assert weights.values.tolist() == [2, 0, 2]


def test_absent_categories_are_ignored():
    scores = np.random.default_rng(0).normal(size=(50, 2))
    with_gap = InfluenceMatrix(np.column_stack([scores[:, 0], np.full(50, np.nan), scores[:, 1]]), np.zeros(50, int))
    found, expected = reweight(with_gap), reweight(InfluenceMatrix(scores, np.zeros(50, int)))
    np.testing.assert_array_equal(found.values, expected.values)
    assert np.isnan(found.predicted_gain[1])
    with pytest.raises(ValueError, match="none of the targets has validation samples"):
        reweight(with_gap, targets=[1])


def test_missing_names_are_numbers_and_missing_gains_nan():
    assert SampleWeights([1.0], [0.1, 0.2]).category_names == ("0", "1")
    np.testing.assert_array_equal(SampleWeights([1.0], category_names=["cat", "dog"]).predicted_gain, [np.nan, np.nan])
    assert len(SampleWeights([1.0]).predicted_gain) == 0


@pytest.mark.parametrize("method", ["mass_preserving", "paper"])
def test_weights_reject_another_dataset(influence, method):
    labels = torch.from_numpy(influence.labels)
    own, other = (TensorDataset(labels, y) for y in (labels, labels.flip(0)))
    made = dataclasses.replace(influence, metadata={"fingerprints": {"labels": fingerprint_of_labels(own)}})
    weights = reweight(made, method=method, thresholds=0.0)
    weights.check_dataset(own)
    with pytest.raises(ValueError, match="belong to another training dataset"):
        weights.check_dataset(other)


def test_weights_can_be_saved_and_loaded(influence, tmp_path):
    weights = reweight(influence)
    again = SampleWeights.load(weights.save(tmp_path / "weights.safetensors"))
    np.testing.assert_array_equal(again.values, weights.values)
    np.testing.assert_array_equal(again.predicted_gain, weights.predicted_gain)
    assert (again.category_names, again.metadata) == (weights.category_names, weights.metadata)
