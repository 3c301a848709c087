"""The weights that a screening tries."""

import numpy as np

from lightning_pareto import InfluenceMatrix, reweight
from lightning_pareto.reweighting.proposals import SAME, Candidate, CandidateWeights, candidates

RNG = np.random.default_rng(0)
ALL = np.ones(3, dtype=bool)


def influence(scores=None):
    return InfluenceMatrix(RNG.normal(0, 1, (90, 3)) if scores is None else scores, np.arange(90) % 3)


def test_the_weights_are_those_of_reweight():
    matrix = influence()
    maker = CandidateWeights({"loss": matrix}, ALL)
    for budget in (0.3, 0.1):
        found = maker.weights(Candidate("loss", budget, 0.6, "additive"))
        expected = reweight(matrix, budget=budget)
        np.testing.assert_allclose(found.values, expected.values, atol=1e-7)
        np.testing.assert_allclose(found.predicted_gain, expected.predicted_gain, atol=1e-7)
    plain = maker.weights(Candidate("loss", 0.2, 0.0, "multiplicative"))
    expected = reweight(matrix, budget=0.2, thresholds=0.0, return_mass="multiplicative")
    np.testing.assert_allclose(plain.values, expected.values, atol=1e-7)


def test_targets_alone_gain_and_the_others_do_not_lose():
    matrix = influence()
    targets = np.array([True, False, False])
    found = CandidateWeights({"loss": matrix}, targets).weights(Candidate("loss", 0.2, 0.0, "additive"))
    np.testing.assert_allclose(found.values, reweight(matrix, targets=[0], budget=0.2).values, atol=1e-7)
    assert (found.predicted_gain >= -1e-9).all()


def test_only_what_differs_is_tried():
    matrix = influence()
    kept = CandidateWeights({"loss": matrix}, ALL).distinct(candidates(["loss"], (0.3, 0.3, 0.2), False, False))
    weights = [np.ones(90), *(w.values for _, w in kept)]
    assert len(kept) > 3
    for i, one in enumerate(weights):
        assert all(np.abs(one - other).mean() > SAME for other in weights[:i])
    assert kept[0][0] == Candidate("loss", 0.3, 0.6, "additive")


def test_what_is_predicted_to_harm_is_not_tried():
    """The first class harms the second category, the second class makes up for it: not if only the first moves."""
    x, labels = np.random.default_rng(0).normal(size=(90, 2)), np.repeat([0, 1], [20, 70])
    scores = np.where(labels[:, None] == 0, x[:, :1] * [4.0, -1.0], x * [0.0, 1.0])
    maker = CandidateWeights({"loss": InfluenceMatrix(scores, labels)}, np.array([True, False]))
    both = candidates(["loss"], (0.3,), True, False)
    gains = {one.return_mass: maker.weights(one).predicted_gain for one in both}
    assert gains["additive"].min() > -1e-9
    assert gains["multiplicative"][0] > gains["additive"][0]
    assert gains["multiplicative"][1] < -0.01
    assert [one.return_mass for one, _ in maker.distinct(both)] == ["additive"]


def test_nothing_is_tried_where_nothing_can_move():
    """All samples of a class alike: no weights within a class change anything."""
    scores = np.repeat(RNG.normal(size=(3, 3))[None], 30, axis=0).reshape(90, 3)
    maker = CandidateWeights({"loss": influence(scores)}, ALL)
    assert maker.distinct(candidates(["loss"], (0.3,), False, True)) == []


def test_a_category_without_validation_samples_is_left_out():
    scores = RNG.normal(size=(90, 3))
    scores[:, 1] = np.nan
    found = CandidateWeights({"loss": influence(scores)}, ALL).weights(Candidate("loss", 0.2, 0.6, "additive"))
    assert np.isnan(found.predicted_gain).tolist() == [False, True, False]
    assert (found.predicted_gain[[0, 2]] > 0).all()


def test_weak_classes_may_get_more_mass():
    """By the square root of their errors, on top of what moves within them; without an accuracy the mean error."""
    matrix = influence()
    maker = CandidateWeights({"loss": matrix}, ALL, np.array([0.98, 0.62, np.nan]))
    masses = [maker.weights(Candidate("loss", b, 0.6 * (b > 0), "additive", 0.5)).values for b in (0.0, 0.2)]
    factors = np.array([0.04, 0.4, 0.22]) ** 0.5
    expected = factors / factors.mean()
    for values in masses:
        np.testing.assert_allclose([values[matrix.labels == k].mean() for k in range(3)], expected)
    assert np.ptp(masses[0][matrix.labels == 1]) == 0
    assert np.ptp(masses[1][matrix.labels == 1]) > 0


def test_classes_keep_their_masses_where_nothing_is_known_of_their_accuracy():
    values = CandidateWeights({"loss": influence()}, ALL).weights(Candidate("loss", 0.0, 0.0, "additive", 0.5)).values
    np.testing.assert_array_equal(values, 1)


def test_every_combination_is_there_once():
    found = candidates(["loss", "soft_error"], (0.3, 0.2), False, True)
    assert len(found) == len(set(found)) == 2 * 2 * 3 * 2 * 2 + 1
    assert candidates(["loss"], (0.3,), True, True)[0] == Candidate("loss", 0.3, 0.0, "additive")
    assert all(c.share == 0 for c in candidates(["loss"], (0.3,), True, True))
    assert all(c.tilt == 0 for c in candidates(["loss"], (0.3,), False, False))
