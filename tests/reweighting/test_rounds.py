"""Reweighting after a fit that was made with weights: changes start from these and replace them."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn
from torch.utils.data import DataLoader, WeightedRandomSampler

from lightning_pareto import (
    InfluenceMatrix,
    SampleWeights,
    average_influence,
    check_pareto,
    estimate_influence,
    reweight,
    reweighted_dataloader,
)
from lightning_pareto.pareto.admissible import AdmissibleSet
from tests._asserts import assert_near
from tests._oracles import loader
from tests._tolerances import LINEAR_PROGRAM, RELATIVE

LABELS = np.arange(300) % 3


def matrix(weights=None, folds=None, shift=0.0, samples=300):
    rng = np.random.default_rng(0)
    scores = rng.normal(0.02, 1, (samples, 3))
    return InfluenceMatrix(
        scores,
        LABELS[:samples],
        ["cat", "dog", "cow"],
        fold_scores=None if folds is None else scores + shift + rng.normal(0, 0.1 if shift else 9, (folds, samples, 3)),
        fold_support=None if folds is None else np.full((folds, 3), 50),
        weights=weights,
    )


@pytest.fixture
def present():
    """Weights of which a twentieth is taken from samples, and whose classes differ in mass."""
    values = np.where(np.arange(300) % 10 == 0, 0.5, 1.0) * np.array([2.0, 1.0, 0.5])[LABELS]
    return values * 300 / values.sum()


@pytest.mark.parametrize("how", ["additive", "multiplicative"])
def test_weights_start_from_those_of_the_fit(present, how):
    influence = matrix(present)
    weights = reweight(influence, budget=0.2, return_mass=how)
    for label in range(3):
        assert weights.values[label == LABELS].sum() == pytest.approx(present[label == LABELS].sum())
    assert weights.values.min() >= 0
    np.testing.assert_allclose(weights.predicted_gain, (weights.values - present) @ influence.scores / 300)
    taken = AdmissibleSet(LABELS, 0.2, weights.values).moved
    assert AdmissibleSet(LABELS, 0.2, present).moved < taken <= 0.2 + LINEAR_PROGRAM
    assert weights.replaces_others
    assert not reweight(matrix()).replaces_others


@pytest.mark.parametrize("samples", [300, 12_000])
def test_headroom_is_the_optimum_of_the_linear_program(samples):
    rng = np.random.default_rng(1)
    present, labels = rng.uniform(0, 2, samples), np.arange(samples) % 3
    influence = InfluenceMatrix(rng.normal(size=(samples, 3)), labels, weights=present)
    verdict, present = check_pareto(influence, budget=0.4), influence.present_weights
    admissible = AdmissibleSet(labels, 0.4, present)
    slopes = admissible.slopes(influence.scores) / influence.scale
    budget = 0.4 * samples - sum(
        np.maximum(present[labels == c].mean() - present[labels == c], 0).sum() for c in range(3)
    )
    rows = np.block([[-slopes.T, np.ones((3, 1))], [np.ones(samples), np.zeros(1)]])
    bounds = [*zip(np.zeros(samples), present, strict=True), (None, None)]
    best = linprog(np.append(np.zeros(samples), -1), rows, np.append(np.zeros(3), budget), bounds=bounds)
    assert verdict.headroom == pytest.approx(-best.fun / samples, rel=1e-6)
    assert verdict.headroom > 0.01
    np.testing.assert_allclose(verdict.together.min(), verdict.headroom, rtol=1e-6)


@pytest.mark.parametrize("how", ["additive", "multiplicative"])
def test_budget_bounds_all_rounds_together(how):
    influence, moved = matrix(), []
    for _ in range(5):
        weights = reweight(influence, budget=0.2, return_mass=how)
        moved.append(weights.moved)
        influence = replace(influence, weights=weights.values)
    assert max(moved) <= 0.2 + LINEAR_PROGRAM
    assert moved == sorted(moved)
    assert check_pareto(influence, budget=0.2).headroom < check_pareto(matrix(), budget=0.2).headroom / 10
    if how == "multiplicative":
        assert moved[0] == pytest.approx(0.2)
        text = str(check_pareto(influence, budget=0.2)).replace("\n", " ")
        assert "20% of the training mass (20% are moved already, by the weights of this fit)" in text


def test_class_that_was_never_drawn_stays_out():
    influence = matrix(np.where(LABELS == 0, 0.0, 1.0))
    for how in ("additive", "multiplicative"):
        assert not reweight(influence, return_mass=how).values[LABELS == 0].any()


def test_thresholds_of_the_paper_count_from_the_weights_of_the_fit(present):
    influence = matrix(present)
    weights = reweight(influence, method="paper", thresholds=1.0)
    assert (weights.values @ influence.scores >= present @ influence.scores - LINEAR_PROGRAM).all()


def test_drift_is_that_of_the_weighted_loss(present):
    influence = matrix(present)
    expected = present @ influence.scores / (300 * influence.scale)
    np.testing.assert_allclose(check_pareto(influence).drift, expected)


def test_weights_are_kept_with_the_matrix(present, tmp_path):
    influence = matrix(3 * present, folds=4)
    np.testing.assert_allclose(influence.weights, present)
    for other in (InfluenceMatrix.load(influence.save(tmp_path / "i.safetensors")), influence.of_folds([0])):
        np.testing.assert_array_equal(other.weights, influence.weights)
    with pytest.raises(ValueError, match="matrix 1 has other weights of the fit"):
        average_influence([influence, matrix(folds=4)])


@pytest.mark.parametrize("bad", [np.ones(2), -np.ones(300), np.zeros(300), np.full(300, np.nan)])
def test_bad_weights_are_refused(bad):
    with pytest.raises(ValueError, match="weights must"):
        matrix(bad)


def test_weights_count_as_repeated_samples():
    """Influence and curvature are those of a training set with as many copies of each sample as its weight says."""
    torch.manual_seed(0)
    module, x, y = nn.Linear(3, 3).double(), torch.randn(60, 3).double(), torch.arange(60) % 3
    train, validation = loader(x, y), loader(torch.randn(60, 3).double(), y)
    repeats = torch.arange(60) % 4
    options = {"curvature": "gauss_newton", "folds": 1}
    found = estimate_influence(module, train, validation, weights=repeats, **options)
    repeated = loader(x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats))
    expected = estimate_influence(module, repeated, validation, **options)
    drawn = repeats > 0
    first = repeats.cumsum(0)[drawn] - 1
    assert_near(found.scores[drawn], expected.scores[first], RELATIVE[torch.float32])
    assert not np.allclose(found.scores, estimate_influence(module, train, validation, **options).scores)


def test_weights_of_a_sampler_are_read_and_replaced():
    torch.manual_seed(0)
    module, x, y = nn.Linear(3, 3), torch.randn(60, 3), torch.arange(60) % 3
    own = torch.tensor([3.0, 1.0, 2.0])[y]
    train = DataLoader(torch.utils.data.TensorDataset(x, y), 20, sampler=WeightedRandomSampler(own, 60))
    influence = estimate_influence(module, train, loader(torch.randn(60, 3), y), folds=1)
    np.testing.assert_allclose(influence.weights, own / own.mean())
    weights = reweight(influence, budget=0.3)
    second = reweighted_dataloader(train, weights)
    np.testing.assert_allclose(second.sampler.weights.values, weights.values)
    third = reweighted_dataloader(second, reweight(replace(influence, weights=weights.values), budget=0.4))
    assert third.sampler.weights.values[y == 0].sum() == pytest.approx(30)
    plain = reweighted_dataloader(train, SampleWeights(np.ones(60)))
    np.testing.assert_allclose(plain.sampler.weights.values, own / own.mean())


def test_says_that_nothing_is_proven():
    with pytest.warns(UserWarning, match=r"the verdict is 'not proven': .*Keep the model"):
        weights = reweight(matrix(folds=8), budget=0.3)
    assert weights.metadata["verdict"] == "not proven"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reweight(matrix(folds=8, shift=1e-9)).metadata["verdict"] == "yes"
        assert reweight(matrix()).metadata["verdict"] is None
    further = matrix(folds=8, shift=1e-9)
    with pytest.warns(UserWarning, match="the verdict is 'underfitted': .*Train longer"):
        reweight(replace(further, scores=further.scores + 1, fold_scores=further.fold_scores + 1))


def test_mass_moved_leaves_out_a_balance_of_classes():
    labels = np.repeat([0, 1], [90, 10])
    balanced = np.where(labels == 0, 50 / 90, 5.0)
    scores = np.random.default_rng(0).normal(size=(100, 2))
    weights = reweight(InfluenceMatrix(scores, labels, weights=balanced), budget=0.1)
    assert np.abs(weights.values - balanced).max() > 0.5
    assert 0.05 < weights.moved <= 0.1, "mass that is given back to its own sample does not count"
    assert f"{weights.moved:.1%} of the mass moved, budget 0.1" in repr(weights)
