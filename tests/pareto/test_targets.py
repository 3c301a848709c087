"""Targets and floors of the verdict."""

import dataclasses

import numpy as np
import pytest
from scipy import optimize

from lightning_pareto import InfeasibleError, InfluenceMatrix, ParetoVerdict, check_pareto, reweight
from lightning_pareto.influence.gains import column_scale
from lightning_pareto.pareto.admissible import AdmissibleSet
from lightning_pareto.pareto.demand import Demand
from lightning_pareto.pareto.headroom import headroom
from tests._tolerances import LINEAR_PROGRAM


@pytest.fixture
def influence():
    """What helps the cat harms the dog. The cow is independent of both."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(300, 3)) - np.where(rng.random(300) < 0.2, 1.0, -0.25)[:, None]
    scores[:, 1] -= 0.8 * scores[:, 0]
    folds = scores + 0.5 * rng.normal(size=(8, 300, 3))
    return InfluenceMatrix(
        folds.mean(axis=0),
        rng.integers(0, 3, 300),
        ["cat", "dog", "cow"],
        fold_scores=folds,
        fold_support=np.full((8, 3), 30),
    )


def best(influence, target, floors, budget=0.2):
    """Largest gain of the target subject to the floors, by SciPy, with the gains written out sample by sample."""
    scores = influence.scores.astype(np.float64)
    n, k = scores.shape
    means = np.stack([scores[influence.labels == label].mean(axis=0) for label in influence.labels])
    slopes = (means - scores) / np.abs(scores).mean(axis=0) / n
    others = [c for c in range(k) if c != target]
    rows = np.vstack([-slopes[:, others].T, np.ones(n)])
    found = optimize.linprog(
        -slopes[:, target], A_ub=rows, b_ub=[*(-np.asarray(floors)[others]), budget * n], bounds=(0, 1)
    )
    return -found.fun


@pytest.mark.parametrize("floor", [0.0, -0.1, 0.05])
def test_headroom_is_the_largest_gain_of_the_target_under_the_floors(influence, floor):
    verdict = check_pareto(influence, targets="cat", floors=floor)
    assert verdict.headroom == pytest.approx(best(influence, 0, [0, floor, floor]), abs=LINEAR_PROGRAM)
    assert verdict.together[0] == pytest.approx(verdict.headroom, abs=LINEAR_PROGRAM)
    assert verdict.together[1] == pytest.approx(floor, abs=LINEAR_PROGRAM), "the dog's floor binds"
    assert verdict.together[2] >= floor - LINEAR_PROGRAM
    assert verdict.prices[0] == pytest.approx(1)
    lower = best(influence, 0, [0, floor - 1e-4, floor])
    assert (lower - verdict.headroom) / 1e-4 == pytest.approx(verdict.prices[1], rel=0.02)


@pytest.mark.filterwarnings("ignore:the verdict is")
def test_floors_per_category_give_the_same_weights_as_reweight(influence):
    """With a single target, the max-min LP and the sum LP are the same."""
    floors = [np.pi, -0.2, 0.02]
    verdict = check_pareto(influence, targets=[0], floors=floors)
    weights = reweight(influence, targets=["cat"], thresholds=[-1.0, -0.2, 0.02])
    np.testing.assert_allclose(weights.predicted_gain / verdict.scale, verdict.together, atol=1e-6)


def test_naming_all_categories_equals_no_targets(influence):
    verdict, again = check_pareto(influence), check_pareto(influence, targets=["cow", "dog", 0])
    assert str(again) == str(verdict)
    assert np.isnan(verdict.floors).all()


def test_fewer_targets_never_have_less_headroom(influence):
    values = [check_pareto(influence, targets=targets).headroom for targets in (None, [0, 1], [0])]
    assert values == sorted(values)


def test_strong_duality_with_floors(influence):
    """h + Σ_{k∉T} λ_k floor_k equals the best λ-weighted gain, computed here by sorting."""
    scores = influence.scores
    scale, admissible = column_scale(scores), AdmissibleSet(influence.labels, 0.2)
    demand = Demand(np.array([True, False, True]), np.array([0.0, -0.05, 0.0]))
    found = headroom(scores, scale, admissible, demand)
    slopes = np.sort((admissible.slopes(scores) / scale) @ found.prices)[::-1]
    bound = slopes[: int(0.2 * 300)].clip(min=0).sum() / 300
    assert found.value + found.prices[1] * -0.05 == pytest.approx(bound, abs=LINEAR_PROGRAM)
    assert found.prices[[0, 2]].sum() == pytest.approx(1)


def test_unreachable_floor_error_names_category_and_limit(influence):
    most = best(influence, 2, [0.01, 0.02, 0])
    with pytest.raises(InfeasibleError, match=rf"category 'cow' must gain 5 but can gain at most {most:.4g} if"):
        check_pareto(influence, targets="cat", floors=[0, 0.02, 5])
    below = np.floor(1e4 * best(influence, 2, [-9, 0.02, 0])) / 1e4
    check_pareto(influence, targets="cat", floors=[0, 0.02, below])


def test_lowest_of_several_unreachable_floors_is_named(influence):
    most = best(influence, 1, [-9, 0, -9])
    with pytest.raises(InfeasibleError, match=rf"category 'dog' must gain 5 but can gain at most {most:.4g} if"):
        check_pareto(influence, targets="cat", floors=[0, 5, 6])


def test_limit_of_a_floor_accounts_for_the_lower_floors(influence):
    """The cat's floor costs the dog some of its gain."""
    floor = 0.5 * best(influence, 0, [0, -9, -9])
    most = best(influence, 1, [floor, 0, -9])
    assert most < 0.6 * best(influence, 1, [-9, 0, -9])
    with pytest.raises(InfeasibleError, match=rf"category 'dog' must gain 5 but can gain at most {most:.4g} if"):
        check_pareto(influence, targets="cow", floors=[floor, 5, 0])


def test_floor_above_zero_may_cost_the_target(influence):
    """Unchanged weights do not hold a floor above zero, so the headroom may be negative."""
    floors = [0, 0.99 * best(influence, 1, [-9, 0, -9]), -9]
    expected = best(influence, 0, floors)
    assert expected < -0.01
    assert check_pareto(influence, targets="cat", floors=floors).headroom == pytest.approx(expected, abs=LINEAR_PROGRAM)


def test_report_states_the_demand_and_the_verdict_can_be_saved(influence, tmp_path):
    verdict = check_pareto(influence, targets="cat", floors=-0.05)
    text = str(verdict)
    assert "Asked for cat; the others must hold their floors." in text
    assert "Held out, the worst target (cat) gains" in text
    assert [line.split()[-1] for line in text.splitlines() if line.startswith(("cat ", "dog ", "cow "))] == [
        "gain",
        "-0.050",
        "-0.050",
    ]
    assert verdict.lower_bound[1] < verdict.bar[1] < verdict.lower_bound[0]
    assert "\n  dog: " in text
    assert "\n  cat: " not in text
    missed = dataclasses.replace(verdict, floors=np.array([np.nan, verdict.held_out_gain[1] + 0.1, -9.0]))
    assert "\n  dog: does not hold its floor\n" in str(missed)
    assert max(map(len, text.splitlines())) <= 80
    again = ParetoVerdict.load(verdict.save(tmp_path / "verdict.safetensors"))
    assert str(again) == text
    np.testing.assert_array_equal(again.targets, [True, False, False])
    np.testing.assert_array_equal(again.floors, [np.nan, -0.05, -0.05])


def test_a_target_can_be_proven_when_all_categories_cannot(influence):
    """Cat and dog trade off exactly. Both cannot gain, but the cat can gain much if the dog may lose."""
    folds = influence.fold_scores.copy()
    folds[:, :, 1] = -folds[:, :, 0]
    opposed = InfluenceMatrix(
        folds.mean(axis=0), influence.labels, fold_scores=folds, fold_support=influence.fold_support
    )
    assert check_pareto(opposed).answer == "no"
    assert check_pareto(opposed, targets=[0, 2], floors=-1.0).answer == "yes"
    assert check_pareto(opposed, targets=[0], floors=0.0).answer == "no"


def test_target_without_validation_samples_is_rejected():
    scores = np.random.default_rng(0).normal(size=(30, 3))
    scores[:, 1] = np.nan
    matrix = InfluenceMatrix(scores, np.arange(30) % 3, ["cat", "dog", "cow"])
    with pytest.raises(ValueError, match="must have validation samples, found none of dog"):
        check_pareto(matrix, targets=["cat", "dog"])
    assert check_pareto(matrix).present.tolist() == [True, False, True]
