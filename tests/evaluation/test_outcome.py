"""Which validation samples a model gets right."""

import numpy as np
import pytest

from lightning_pareto.evaluation.outcome import Outcome, pooled
from tests.evaluation._outcomes import outcome


def test_accuracy_of_each_category_and_of_one_without_samples():
    found = outcome([1, 0, 1, 1], [0, 0, 1, 1], [0.9, 0.2, 0.8, 0.6])
    np.testing.assert_allclose(found.accuracy, [0.5, 1.0, np.nan])
    np.testing.assert_allclose(found.soft_accuracy, [0.55, 0.7, np.nan])
    assert found.macro == 0.75
    assert found.support.tolist() == [2, 2, 0]
    assert found.hits.tolist() == [1, 2, 0]
    assert found.count(np.array([False, True, True, True])).tolist() == [1, 2, 0]


def test_part_of_an_outcome_holds_only_the_chosen_samples():
    part = outcome([1, 0, 1, 1], [0, 0, 1, 2], [0.9, 0.2, 0.8, 0.6]).on(np.array([True, False, False, True]))
    assert part.category.tolist() == [0, 2]
    assert part.correct.tolist() == [True, True]
    assert part.probability.tolist() == [0.9, 0.6]
    assert part.category_names == ("cat", "dog", "cow")


def test_outcome_of_some_samples_is_placed_among_all():
    chosen = np.array([True, False, True, False])
    whole = Outcome(np.array([0, 1, 1, 0]), np.zeros(4, dtype=bool), np.full(4, 0.1), ("a", "b"))
    part = Outcome(np.array([0, 1]), np.array([True, False]), np.array([0.9, 0.4]), ("0", "1"))
    placed = part.placed(chosen, whole)
    assert placed.correct.tolist() == [True, False, False, False]
    assert placed.probability.tolist() == [0.9, 0.1, 0.4, 0.1]
    assert placed.category_names == ("a", "b")
    assert not whole.correct.any()
    with pytest.raises(ValueError, match="measured on different validation samples"):
        part.placed(~chosen, whole)


def test_pooling_takes_each_model_on_its_own_samples():
    category = [0, 0, 1, 1, 2]
    first = outcome([1, 1, 1, 1, 1], category, [0.9, 0.8, 0.7, 0.6, 0.5])
    second = outcome([0, 0, 0, 0, 0], category, [0.1, 0.2, 0.3, 0.4, 0.5])
    own, other = np.array([True, False, True, False, False]), np.array([False, True, False, True, False])
    found = pooled([(first, own), (second, other)])
    assert found.category.tolist() == [0, 0, 1, 1], "nobody has measured the last sample"
    assert found.correct.tolist() == [True, False, True, False]
    assert found.probability.tolist() == [0.9, 0.2, 0.7, 0.4]
    assert pooled([(second, other)]).probability.tolist() == [0.2, 0.4]


def test_predictions_go_with_their_samples_and_tell_what_a_category_is_mistaken_for():
    labels, predictions = [0, 0, 0, 0, 1, 1, 2], [1, 2, 1, 0, 1, 1, 0]
    whole = Outcome.of(labels, predictions, ["cat", "dog", "cow"])
    assert whole.mistaken_for == [(1, 2, 3), (0, 0, 0), (0, 1, 1)]
    some = np.arange(7) % 2 == 1
    assert whole.on(some).predicted.tolist() == [2, 0, 1]
    other = Outcome.of(labels, labels, ["cat", "dog", "cow"])
    assert other.on(some).placed(some, whole).predicted.tolist() == [1, 0, 1, 0, 1, 1, 0]
    assert pooled([(whole, some), (other, ~some)]).mistaken_for == [(2, 1, 1), (0, 0, 0), (0, 0, 0)]
    unknown = outcome([1, 0], [0, 0], [0.9, 0.4])
    assert unknown.mistaken_for == [(0, 0, 0)] * 3
    assert unknown.on(np.array([True, False])).predicted is None


@pytest.mark.parametrize(
    ("category", "correct", "probability", "message"),
    [
        ([0, 1], [1, 0], [0.5, 0.5], r"must be bool, found int64: correct = predictions == labels"),
        ([0, 1], [True], [0.5, 0.5], r"must be \(n,\), .* category \(2,\), correct \(1,\), probability \(2,\)"),
        ([[0]], [[True]], [[0.5]], r"must be \(n,\), .* category \(1, 1\)"),
        ([0.0, 1.0], [True, True], [0.5, 0.5], "categories must be integers, found float64"),
        ([0, 3], [True, True], [0.5, 0.5], r"lie in \[0, 3\), one name for each"),
        ([-1, 0], [True, True], [0.5, 0.5], r"lie in \[0, 3\), one name for each"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(category, correct, probability, message):
    with pytest.raises(ValueError, match=message):
        Outcome(np.array(category), np.array(correct), np.array(probability), ("cat", "dog", "cow"))


@pytest.mark.parametrize("predictions", [[[np.nan, 0.5], [0.1, 0.9]], [[np.inf, 0.0], [1.0, 2.0]], [np.nan, 1.0]])
def test_predictions_that_are_not_finite_are_refused(predictions):
    with pytest.raises(ValueError, match="predictions must be finite"):
        Outcome.of([0, 1], predictions, ["cat", "dog"])
