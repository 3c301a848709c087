"""What a screening makes of its trials."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lightning_pareto import InfluenceMatrix
from lightning_pareto.integration.tuner.search import Half, ScreeningSearch, Situation
from lightning_pareto.reweighting.candidates import CandidateWeights, candidates
from lightning_pareto.reweighting.outcomes import Outcome

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 2
INFLUENCE = InfluenceMatrix(RNG.normal(size=(60, 2)), LABELS)
OF_BOTH = InfluenceMatrix(RNG.normal(size=(60, 2)), LABELS)
UNSEEN = np.arange(100) % 2 == 0


class Trials:
    """Answers every trial with a probability that grows with what the test wants of the weights."""

    epochs_spent = 0

    def __init__(self, merit):
        self.merit = merit
        self.names = []

    def run(self, trial):
        self.names.append(trial.name)
        probability = np.where(UNSEEN, self.merit(trial), RNG.uniform(size=100))  # of samples that are seen: anything
        return SimpleNamespace(outcome=Outcome(np.arange(100) // 50, probability > 0.5, probability, ("a", "b")))


def found(merit, epochs=20, tilt=True):
    accuracy = np.array([0.9, 0.5]) if tilt else None
    halves = tuple(Half({"loss": INFLUENCE}, mask, accuracy) for mask in (UNSEEN, ~UNSEEN))
    nobody = Outcome(np.arange(100) // 50, np.zeros(100, dtype=bool), np.zeros(100), ("a", "b"))
    both = Half({"loss": OF_BOTH}, np.zeros(100, dtype=bool), accuracy)
    situation = Situation(halves, both, Path("start.ckpt"), nobody, np.ones(2, dtype=bool), chosen=False)
    trials = Trials(merit)
    return ScreeningSearch(["loss"], (0.3, 0.1)).find(situation, trials, epochs), trials


def test_the_best_by_unseen_samples_comes_first():
    finalists, _ = found(lambda trial: 0.9 if "budget 0.1, floors 0.6, mult" in trial.name else 0.1, tilt=False)
    assert finalists[0].name == "loss, budget 0.1, floors 0.6, multiplicative"


def test_one_that_keeps_the_classes_masses_and_one_that_does_not_are_first():
    finalists, _ = found(lambda trial: 0.9 if "classes by error" in trial.name else 0.1)
    assert "classes by error" not in finalists[0].name
    assert "classes by error" in finalists[1].name
    assert "classes by error" in finalists[2].name


def test_no_more_epochs_are_spent_than_allowed():
    finalists, trials = found(lambda trial: 0.5, epochs=3)
    assert len(trials.names) == len(finalists) == 3
    finalists, trials = found(lambda trial: 0.5, epochs=0)
    assert (len(trials.names), len(finalists)) == (0, 1)  # the likeliest, unseen


def test_each_half_gets_weights_made_in_the_same_way():
    finalists, _ = found(lambda trial: 0.5)
    for finalist in finalists:
        (one, unseen_by_one), (two, unseen_by_two) = finalist.fits
        np.testing.assert_array_equal(one.values, two.values)  # the same influence on both here
        np.testing.assert_array_equal(unseen_by_one, ~unseen_by_two)


def test_the_weights_of_a_last_fit_are_made_in_the_same_way_from_all_of_the_validation_set():
    finalists, _ = found(lambda trial: 0.5, tilt=False)
    maker = CandidateWeights({"loss": OF_BOTH}, np.ones(2, dtype=bool))
    ways = {str(way): way for way in candidates(["loss"], (0.3, 0.1), with_targets=False, with_tilt=False)}
    for finalist in finalists:
        np.testing.assert_array_equal(finalist.whole.values, maker.weights(ways[finalist.name]).values)
