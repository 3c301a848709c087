"""Gains of categories alone, exchange rates, and the samples that a proof needs."""

import numpy as np
import pytest
from scipy import optimize, stats

from lightning_pareto import InfluenceMatrix, ParetoVerdict, check_pareto
from lightning_pareto.influence.gains import column_scale, predicted_gain
from lightning_pareto.pareto.admissible import AdmissibleSet
from lightning_pareto.pareto.headroom import exchange_rates, gains_alone, headroom
from tests._tolerances import LINEAR_PROGRAM


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    scores = rng.normal(0.1, 1, size=(300, 3))
    scores[:, 1] -= 0.7 * scores[:, 0]  # categories 0 and 1 trade off
    return scores, rng.integers(0, 3, 300)


def test_alone_is_the_headroom_of_one_category(problem):
    scores, labels = problem
    verdict = check_pareto(InfluenceMatrix(scores, labels), budget=0.13)
    scores = scores.astype(np.float32)
    admissible, scale = AdmissibleSet(labels, 0.13), column_scale(scores)
    solved = headroom(scores, scale, admissible)
    for k in range(3):
        alone = headroom(scores[:, [k]], scale[[k]], admissible)
        assert verdict.alone[k] == pytest.approx(alone.value, abs=LINEAR_PROGRAM)
    np.testing.assert_array_equal(verdict.alone, gains_alone(scores, scale, admissible))
    np.testing.assert_allclose(verdict.together, predicted_gain(scores, solved.weights) / scale, atol=1e-12)
    assert verdict.together.min() == pytest.approx(solved.value, abs=LINEAR_PROGRAM)
    assert (verdict.alone >= verdict.together - LINEAR_PROGRAM).all()


def test_exchange_rates_are_the_actual_costs(problem):
    """On the frontier, raising one category's floor by ε lowers the other's best gain by the rate times ε."""
    scores, labels = problem[0][:, :2], problem[1]
    admissible, scale = AdmissibleSet(labels, 0.2), column_scale(scores)
    solved = headroom(scores, scale, admissible)
    rates = exchange_rates(solved.prices)
    gain = predicted_gain(scores, solved.weights) / scale

    def best_of_other(floor):
        """Largest gain_1 subject to gain_0 ≥ floor, by SciPy."""
        slopes = admissible.slopes(scores) / scale / len(scores)
        rows = np.vstack([-slopes[:, 0], np.ones(len(scores))])
        found = optimize.linprog(-slopes[:, 1], A_ub=rows, b_ub=[-floor, 0.2 * len(scores)], bounds=(0, 1))
        return -found.fun

    epsilon = 1e-5
    assert best_of_other(gain[0]) == pytest.approx(gain[1], abs=LINEAR_PROGRAM)
    costs = [(best_of_other(gain[0] + step) - gain[1]) / step for step in (epsilon, -epsilon)]
    assert min(costs) - 1e-3 <= -rates[0, 1] <= max(costs) + 1e-3, "a vertex has different slopes on its two sides"
    np.testing.assert_allclose(np.diag(rates), 1)
    assert rates[0, 1] * rates[1, 0] == pytest.approx(1)


def test_category_with_gain_to_spare_pays_nothing():
    rates = exchange_rates(np.array([0.5, 0.5, 0.0]))
    np.testing.assert_allclose(rates[:2, :2], 1)
    assert np.isnan(rates[:2, 2]).all()
    assert rates[2, :2].tolist() == [0, 0]


def influence(signal, support, noise=6.0, opposed=False):
    """A fifth of the samples harm each category by ``signal``. Small folds see it with more noise."""
    rng = np.random.default_rng(0)
    support = np.array(support)
    common = np.where(rng.random(400) < 0.2, -signal, 0)[:, None] + rng.normal(size=(400, 3))
    common[:, 1] = -common[:, 0] if opposed else common[:, 1]
    folds = common + rng.normal(size=(8, 400, 3)) * noise / np.sqrt(support)
    share = np.broadcast_to(support, (8, 3))
    return InfluenceMatrix(
        folds.mean(axis=0),
        rng.integers(0, 3, 400),
        ["cat", "dog", "cow"],
        support=share.sum(axis=0),
        fold_scores=folds,
        fold_support=share,
    )


def test_interval_of_the_worst_category_agrees_with_the_test():
    for signal in (0.3, 0.8, 2.0):
        verdict = check_pareto(influence(signal, [20, 20, 20]))
        low, high = verdict.worst_interval
        assert low < verdict.held_out_gain.min() < high
        assert (low > 0) == (verdict.p_value < verdict.level)
        bound = verdict.held_out_gain - stats.t.isf(0.05, 7) * verdict.standard_error
        np.testing.assert_allclose(verdict.lower_bound, bound)


def test_report_says_which_category_needs_how_many_samples():
    verdict = check_pareto(influence(0.8, [400, 400, 1], noise=30.0))
    assert verdict.answer == "not proven"
    needed = verdict.samples_needed
    assert verdict.support.tolist() == [3200, 3200, 8]
    lacking = needed > verdict.support
    assert lacking.tolist() == [False, False, True]
    text = str(verdict)
    if np.isfinite(needed[2]):
        assert f"cow: 8 validation samples, needs about {needed[2]:.0f}" in text
    else:
        assert "cow: does not gain held out" in text
    ratio = stats.t.isf(0.05, 7) * verdict.standard_error[0] / verdict.held_out_gain[0]
    assert needed[0] == np.ceil(3200 * ratio**2)


def test_report_says_which_category_does_not_gain():
    verdict = check_pareto(influence(0.0, [20, 20, 20], noise=20.0, opposed=True))
    worst = int(verdict.held_out_gain.argmin())
    assert verdict.held_out_gain[worst] < 0
    assert np.isinf(verdict.samples_needed[worst])
    assert f"{verdict.category_names[worst]}: does not gain held out" in str(verdict)


def test_without_folds_held_out_values_are_unknown():
    whole = influence(1.0, [20, 20, 20])
    verdict = check_pareto(InfluenceMatrix(whole.scores, whole.labels))
    assert np.isnan(verdict.samples_needed).all()
    assert np.isnan(verdict.lower_bound).all()
    assert np.isfinite(verdict.alone).all()
    assert (verdict.cost_of_compromise >= -LINEAR_PROGRAM).all()
    assert "unknown" in str(verdict)


def test_correlation_of_opposed_categories_is_negative(problem):
    scores, labels = problem
    verdict = check_pareto(InfluenceMatrix(scores, labels))
    np.testing.assert_allclose(verdict.correlation, np.corrcoef(scores.astype(np.float32).T), atol=1e-6)
    assert verdict.correlation[0, 1] < -0.3


def test_saved_verdict_can_be_loaded(tmp_path):
    verdict = check_pareto(influence(0.8, [20, 20, 2]))
    again = ParetoVerdict.load(verdict.save(tmp_path / "verdict.safetensors"))
    assert str(again) == str(verdict)
    np.testing.assert_array_equal(again.exchange_rates, verdict.exchange_rates)
    np.testing.assert_array_equal(again.samples_needed, verdict.samples_needed)
