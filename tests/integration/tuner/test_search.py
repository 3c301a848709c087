"""Which weights a search finds."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lightning_pareto import HeadRefit, InfluenceMatrix, WeightedSteps, reweight
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.search import (
    TILT,
    Half,
    Situation,
    candidates_for,
    mass_preserving,
    search_thresholds,
)

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 2
INFLUENCE = InfluenceMatrix(RNG.normal(size=(60, 2)), LABELS)
OF_BOTH = InfluenceMatrix(RNG.normal(size=(60, 2)), LABELS)
UNSEEN = np.arange(100) % 2 == 0


def situation(influence=INFLUENCE, accuracy=(0.9, 0.5), targets=(True, True)):
    accuracy = None if accuracy is None else np.array(accuracy)
    nobody = Outcome(np.arange(100) // 50, np.zeros(100, dtype=bool), np.zeros(100), ("a", "b"))
    return Situation(
        halves=tuple(Half(influence, mask, accuracy) for mask in (UNSEEN, ~UNSEEN)),
        both=Half(OF_BOTH, np.zeros(100, dtype=bool), accuracy),
        checkpoint=Path("start.ckpt"),
        reference=nobody,
        targets=np.array(targets),
        chosen=not all(targets),
    )


def test_weights_are_those_of_reweight():
    (finalist,) = mass_preserving(TuningOptions(), situation(accuracy=None))
    (one, unseen_by_one), (two, unseen_by_two) = finalist.fits
    np.testing.assert_allclose(one.values, reweight(INFLUENCE, budget=0.3).values, atol=1e-7)
    np.testing.assert_array_equal(one.values, two.values)  # the same influence on both here
    np.testing.assert_array_equal(unseen_by_one, ~unseen_by_two)
    np.testing.assert_allclose(finalist.from_all.values, reweight(OF_BOTH, budget=0.3).values, atol=1e-7)
    assert finalist.name == "budget 0.3"
    assert finalist.confirms


def test_only_chosen_targets_are_raised():
    (finalist,) = mass_preserving(TuningOptions(budget=0.2), situation(targets=(True, False)))
    expected = reweight(INFLUENCE, budget=0.2, targets=[0])
    np.testing.assert_allclose(finalist.fits[0][0].values, expected.values, atol=1e-7)


def test_weak_classes_get_more_mass_in_the_second_kind_of_weights():
    """Their mass follows a power of their errors. A class of unknown accuracy gets the mean error."""
    influence = InfluenceMatrix(RNG.normal(size=(60, 3)), np.arange(60) % 3)
    within, tilted = mass_preserving(TuningOptions(), situation(influence, (0.98, 0.62, np.nan), (True, True, True)))
    factors = np.array([0.04, 0.4, 0.22]) ** TILT
    (weights, _), (plain, _) = tilted.fits[0], within.fits[0]
    masses = [weights.values[influence.labels == k].mean() for k in range(3)]
    np.testing.assert_allclose(masses, factors / factors.mean())
    np.testing.assert_allclose(weights.values * factors.mean(), plain.values * factors[influence.labels])
    assert tilted.name == "budget 0.3, classes by error^0.25"
    assert (within.confirms, tilted.confirms) == (True, False)


def test_nothing_is_proposed_if_nothing_can_move():
    """All samples of a class are alike, so weights within a class change nothing."""
    alike = InfluenceMatrix(np.array([[1.0, 2.0], [2.0, 1.0]])[LABELS], LABELS)
    assert mass_preserving(TuningOptions(), situation(alike, accuracy=None)) == []


def test_candidates_come_with_weights_of_each_half():
    first, second = candidates_for(TuningOptions(candidates=[HeadRefit(), WeightedSteps()]), situation())
    assert (first.candidate, second.candidate) == (HeadRefit(), WeightedSteps())
    assert (first.confirms, second.confirms) == (True, False)
    np.testing.assert_allclose(first.fits[1][0].values, reweight(INFLUENCE, budget=0.3).values, atol=1e-7)


class Scripted:
    """Proposes one generation, and keeps the fitness that is reported."""

    def __init__(self, *thresholds):
        self.thresholds, self.asked, self.told = [np.array(alpha) for alpha in thresholds], 0, []

    def ask(self):
        self.asked += 1
        return self.thresholds if self.asked == 1 else []

    def tell(self, thresholds, fitness):
        self.told += fitness


def measured(hits, seen):
    """Right on ``hits`` of the 25 unseen samples of each category, and on all or none of the seen ones."""
    category = np.arange(100) // 50
    correct = np.where(UNSEEN, np.arange(100) % 50 // 2 < np.array(hits)[category], seen)
    return Outcome(category, correct, correct.astype(float), ("a", "b"))


class Epochs:
    """Returns these outcomes for the epochs of the paper's search, in order."""

    def __init__(self, *outcomes):
        self.outcomes, self.weights = outcomes, []

    @property
    def epochs_spent(self):
        return len(self.weights)

    def run(self, trial):
        self.weights.append(trial.weights)
        return SimpleNamespace(outcome=self.outcomes[len(self.weights) - 1])


BENEFIT = np.random.default_rng(1).normal(0.3, 1, size=60)
OPPOSED = InfluenceMatrix(np.stack([BENEFIT, 0.8 - BENEFIT], axis=1), LABELS)  # so every threshold binds
THRESHOLDS = ([0.0, 0.0], [0.9, 0.9], [0.5, 0.5], [0.2, 0.7])


def paper_search(*outcomes, epochs=20):
    """A search for weights that raise the first category, from ten hits on each."""
    start = replace(
        situation(OPPOSED, None, (True, False)),
        reference=measured([10, 10], seen=False),
    )
    script, trials = Scripted(*THRESHOLDS), Epochs(*outcomes)
    return search_thresholds(script, TuningOptions(), start, trials, epochs), script, trials


def test_fitness_is_the_fall_of_the_others_if_the_targets_rise_on_unseen_samples():
    outcomes = (
        measured([12, 20], seen=False),  # a rise of the other does not count
        measured([15, 10], seen=False),
        measured([10, 25], seen=True),  # no rise on unseen samples
        measured([20, 5], seen=False),
    )
    (finalist,), script, trials = paper_search(*outcomes)
    assert script.told == [0.0, 0.0, -np.inf, pytest.approx(-0.2)]
    weights, unseen = finalist.fits[0]
    assert weights is trials.weights[1]
    assert weights.values.mean() == pytest.approx(1)
    np.testing.assert_array_equal(unseen, UNSEEN)
    assert finalist.looks == len({w.values.tobytes() for w in trials.weights}) == 4


def test_paper_search_spends_no_more_epochs_than_allowed():
    (finalist,), script, trials = paper_search(*[measured([12, 10], seen=False)] * 4, epochs=2)
    assert (len(trials.weights), script.asked, finalist.looks) == (2, 1, 2)
    assert script.told == [0.0, 0.0, -np.inf, -np.inf]
