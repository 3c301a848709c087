"""Weights by both LPs: their constraints, their optimality, their errors."""

import numpy as np
import pytest

from lightning_pareto import InfeasibleError, InfluenceMatrix, SampleWeights, check_pareto, reweight
from lightning_pareto.pareto.admissible import AdmissibleSet, column_scale
from tests._tolerances import LINEAR_PROGRAM


@pytest.fixture
def influence():
    rng = np.random.default_rng(0)
    return InfluenceMatrix(rng.normal(0.05, 1, (200, 3)), rng.integers(0, 3, 200), ["cat", "dog", "cow"])


@pytest.mark.parametrize("return_mass", ["additive", "multiplicative"])
def test_keeps_the_mass_of_every_class(influence, return_mass):
    weights = reweight(influence, budget=0.3, return_mass=return_mass)
    for label in range(3):
        assert weights.values[influence.labels == label].sum() == pytest.approx((influence.labels == label).sum())
    assert weights.values.min() >= 0


def test_predicts_no_loss_and_reports_what_it_predicts(influence):
    weights = reweight(influence)
    assert (weights.predicted_gain >= -LINEAR_PROGRAM).all()
    np.testing.assert_allclose(weights.predicted_gain, (weights.values - 1) @ influence.scores / 200)
    assert weights.moved <= 0.2 + LINEAR_PROGRAM


def test_is_optimal_by_a_lagrangian_bound(influence):
    """For multipliers y of the floors, the best d of the relaxed problem bounds the optimum from above."""
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


def test_without_targets_every_category_has_its_share_of_the_headroom(influence):
    scale = column_scale(influence.scores)
    h = check_pareto(influence).headroom
    fair, greedy = reweight(influence), reweight(influence, thresholds=0.0)
    assert (fair.predicted_gain / scale).min() >= 0.6 * h - LINEAR_PROGRAM
    assert (greedy.predicted_gain / scale).sum() >= (fair.predicted_gain / scale).sum() - LINEAR_PROGRAM


def test_floors_are_met(influence):
    scale = column_scale(influence.scores)
    weights = reweight(influence, targets=["cat"], thresholds=[0.0, 0.05, 0.02])
    assert (weights.predicted_gain / scale >= np.array([0, 0.05, 0.02]) - LINEAR_PROGRAM).all()
    assert weights.predicted_gain[0] >= reweight(influence, targets=["dog"]).predicted_gain[0]


def test_multiplicative_gives_rejected_samples_nothing():
    influence = InfluenceMatrix([[1.0], [1.0], [1.0], [-3.0]], [0, 0, 0, 0])
    np.testing.assert_allclose(reweight(influence, budget=0.25).values, [1.25, 1.25, 1.25, 0.25])
    multiplicative = reweight(influence, budget=0.25, return_mass="multiplicative")
    np.testing.assert_allclose(multiplicative.values, [4 / 3, 4 / 3, 4 / 3, 0])


def test_a_class_given_up_entirely_keeps_its_mass():
    influence = InfluenceMatrix([[1.0], [-1.0]], [0, 1])
    for return_mass in ("additive", "multiplicative"):
        assert reweight(influence, budget=1.0, return_mass=return_mass).values.tolist() == [1, 1]


def test_the_papers_lp_meets_its_own_constraints(influence):
    weights = reweight(influence, method="paper", targets=["cat"], thresholds=0.9, max_weight=2)
    scores = influence.scores.astype(np.float64)
    assert ((weights.values @ scores)[[0, 1, 2]] >= 0.9 * scores.sum(axis=0) - 1e-4).all()
    assert weights.values.min() >= 0
    assert weights.values.max() <= 2
    interior = ((weights.values > 1e-9) & (weights.values < 2 - 1e-9)).sum()
    assert interior <= 3, "a vertex has at most as many interior variables as rows"
    assert weights.values @ scores[:, 0] >= scores[:, 0].sum()


def test_the_papers_lp_without_binding_thresholds_takes_every_helpful_sample():
    scores = np.array([[1.0, 5.0], [-1.0, 5.0], [2.0, 5.0]])
    weights = reweight(InfluenceMatrix(scores, [0, 1, 0]), method="paper", targets=[0], thresholds=0.0)
    assert weights.values.tolist() == [2, 0, 2]


def test_infeasible_thresholds_say_what_to_do(influence):
    with pytest.raises(InfeasibleError, match=r"lower the thresholds \(0 is always feasible\) or raise the budget"):
        reweight(influence, thresholds=5.0)
    with pytest.raises(InfeasibleError, match="lower them or raise max_weight"):
        reweight(InfluenceMatrix([[1, -1], [1, -1]], [0, 1]), method="paper", thresholds=[1, 0], max_weight=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["horse"]}, r"unknown target 'horse'; the categories are \['cat', 'dog', 'cow'\]"),
        ({"targets": [3]}, "unknown target 3"),
        ({"targets": "two"}, "unknown target 'two'"),
        ({"targets": []}, "none of the targets"),
        ({"thresholds": [0.1, 0.2]}, "one number or 3"),
        ({"thresholds": np.nan}, "thresholds must be finite"),
        ({"budget": 0}, "budget is the share"),
        ({"method": "magic"}, "method must be"),
        ({"method": "paper", "max_weight": 0.5}, "max_weight must be at least 1"),
        ({"method": "paper", "thresholds": 1.5}, r"lie in \[0, 1\]"),
    ],
)
def test_options_are_checked(influence, options, message):
    with pytest.raises(ValueError, match=message):
        reweight(influence, **options)


def test_absent_categories_take_no_part():
    scores = np.random.default_rng(0).normal(size=(50, 2))
    with_gap = InfluenceMatrix(np.column_stack([scores[:, 0], np.full(50, np.nan), scores[:, 1]]), np.zeros(50))
    found, expected = reweight(with_gap), reweight(InfluenceMatrix(scores, np.zeros(50)))
    np.testing.assert_array_equal(found.values, expected.values)
    assert np.isnan(found.predicted_gain[1])
    with pytest.raises(ValueError, match="none of the targets has validation samples"):
        reweight(with_gap, targets=[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, -1.0], "weight 1 is -1"),
        ([np.nan], "weight 0 is nan"),
        ([0.0], "all weights are zero"),
        ([[1.0]], "vector"),
    ],
)
def test_weights_check_themselves(values, message):
    with pytest.raises(ValueError, match=message):
        SampleWeights(values)


def test_weights_save_and_load(influence, tmp_path):
    weights = reweight(influence)
    again = SampleWeights.load(weights.save(tmp_path / "weights.safetensors"))
    np.testing.assert_array_equal(again.values, weights.values)
    np.testing.assert_array_equal(again.predicted_gain, weights.predicted_gain)
    assert (again.class_names, again.metadata) == (weights.class_names, weights.metadata)
