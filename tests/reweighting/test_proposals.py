"""Proposals of weights and their selection."""

import numpy as np

from lightning_pareto import InfluenceMatrix, reweight
from lightning_pareto.reweighting.proposals import SAME_WEIGHTS, Proposal, ProposalSolver, proposals

RNG = np.random.default_rng(0)
ALL = np.ones(3, dtype=bool)


def influence(scores=None):
    return InfluenceMatrix(RNG.normal(0, 1, (90, 3)) if scores is None else scores, np.arange(90) % 3)


def test_weights_agree_with_reweight():
    matrix = influence()
    solver = ProposalSolver({"loss": matrix}, ALL)
    for budget in (0.3, 0.1):
        found = solver.weights(Proposal("loss", budget, 0.6, "additive"))
        expected = reweight(matrix, budget=budget)
        np.testing.assert_allclose(found.values, expected.values, atol=1e-7)
        np.testing.assert_allclose(found.predicted_gain, expected.predicted_gain, atol=1e-7)
    plain = solver.weights(Proposal("loss", 0.2, 0.0, "multiplicative"))
    expected = reweight(matrix, budget=0.2, thresholds=0.0, return_mass="multiplicative")
    np.testing.assert_allclose(plain.values, expected.values, atol=1e-7)


def test_targets_gain_and_the_others_do_not_lose():
    matrix = influence()
    targets = np.array([True, False, False])
    found = ProposalSolver({"loss": matrix}, targets).weights(Proposal("loss", 0.2, 0.0, "additive"))
    np.testing.assert_allclose(found.values, reweight(matrix, targets=[0], budget=0.2).values, atol=1e-7)
    assert (found.predicted_gain >= -1e-9).all()


def test_similar_weights_are_dropped():
    matrix = influence()
    kept = ProposalSolver({"loss": matrix}, ALL).distinct(proposals(["loss"], (0.3, 0.3, 0.2), False, False))
    weights = [np.ones(90), *(w.values for _, w in kept)]
    assert len(kept) > 3
    for i, values in enumerate(weights):
        assert all(np.abs(values - other).mean() > SAME_WEIGHTS for other in weights[:i])
    assert kept[0][0] == Proposal("loss", 0.3, 0.6, "additive")


def test_weights_with_a_predicted_loss_are_dropped():
    """Changes in class 0 harm category 1, and those in class 1 make up for it, but not with multiplicative weights."""
    x, labels = np.random.default_rng(0).normal(size=(90, 2)), np.repeat([0, 1], [20, 70])
    scores = np.where(labels[:, None] == 0, x[:, :1] * [4.0, -1.0], x * [0.0, 1.0])
    solver = ProposalSolver({"loss": InfluenceMatrix(scores, labels)}, np.array([True, False]))
    both = proposals(["loss"], (0.3,), True, False)
    gains = {each.return_mass: solver.weights(each).predicted_gain for each in both}
    assert gains["additive"].min() > -1e-9
    assert gains["multiplicative"][0] > gains["additive"][0]
    assert gains["multiplicative"][1] < -0.01
    assert [kept.return_mass for kept, _ in solver.distinct(both)] == ["additive"]


def test_nothing_is_proposed_if_nothing_can_move():
    """All samples of a class are alike, so weights within a class change nothing."""
    scores = np.repeat(RNG.normal(size=(3, 3))[None], 30, axis=0).reshape(90, 3)
    solver = ProposalSolver({"loss": influence(scores)}, ALL)
    assert solver.distinct(proposals(["loss"], (0.3,), False, True)) == []


def test_category_without_validation_samples_is_left_out():
    scores = RNG.normal(size=(90, 3))
    scores[:, 1] = np.nan
    found = ProposalSolver({"loss": influence(scores)}, ALL).weights(Proposal("loss", 0.2, 0.6, "additive"))
    assert np.isnan(found.predicted_gain).tolist() == [False, True, False]
    assert (found.predicted_gain[[0, 2]] > 0).all()


def test_weak_classes_can_get_more_mass():
    """Their mass follows the square root of their errors. A class of unknown accuracy gets the mean error."""
    matrix = influence()
    solver = ProposalSolver({"loss": matrix}, ALL, np.array([0.98, 0.62, np.nan]))
    masses = [solver.weights(Proposal("loss", b, 0.6 * (b > 0), "additive", 0.5)).values for b in (0.0, 0.2)]
    factors = np.array([0.04, 0.4, 0.22]) ** 0.5
    expected = factors / factors.mean()
    for values in masses:
        np.testing.assert_allclose([values[matrix.labels == k].mean() for k in range(3)], expected)
    assert np.ptp(masses[0][matrix.labels == 1]) == 0
    assert np.ptp(masses[1][matrix.labels == 1]) > 0


def test_classes_keep_their_mass_if_no_accuracy_is_known():
    values = ProposalSolver({"loss": influence()}, ALL).weights(Proposal("loss", 0.0, 0.0, "additive", 0.5)).values
    np.testing.assert_array_equal(values, 1)


def test_every_combination_is_proposed_once():
    found = proposals(["loss", "soft_error"], (0.3, 0.2), False, True)
    assert len(found) == len(set(found)) == 2 * 2 * 3 * 2 * 2 + 1
    assert proposals(["loss"], (0.3,), True, True)[0] == Proposal("loss", 0.3, 0.0, "additive")
    assert all(p.share == 0 for p in proposals(["loss"], (0.3,), True, True))
    assert all(p.tilt == 0 for p in proposals(["loss"], (0.3,), False, False))
