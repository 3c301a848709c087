"""Which weights a search finds by its trials."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lightning_pareto import InfluenceMatrix
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.search import Half, Situation, screen, search_thresholds
from lightning_pareto.reweighting.proposals import ProposalSolver, proposals

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 2
INFLUENCE = InfluenceMatrix(RNG.normal(size=(60, 2)), LABELS)
OF_BOTH = InfluenceMatrix(RNG.normal(size=(60, 2)), LABELS)
UNSEEN = np.arange(100) % 2 == 0


class Trials:
    """Gives the labels of unseen samples the probability that a test assigns to the weights."""

    epochs_spent = 0

    def __init__(self, merit):
        self.merit = merit
        self.names = []

    def run(self, trial):
        self.names.append(trial.name)
        merit = self.merit(trial)
        probability = np.where(UNSEEN, merit, 1 - merit)  # seen samples say the opposite
        return SimpleNamespace(outcome=Outcome(np.arange(100) // 50, probability > 0.5, probability, ("a", "b")))


def found(merit, epochs=20, tilt=True, targets=(True, True)):
    accuracy = np.array([0.9, 0.5]) if tilt else None
    halves = tuple(Half({"loss": INFLUENCE}, mask, accuracy) for mask in (UNSEEN, ~UNSEEN))
    nobody = Outcome(np.arange(100) // 50, np.zeros(100, dtype=bool), np.zeros(100), ("a", "b"))
    both = Half({"loss": OF_BOTH}, np.zeros(100, dtype=bool), accuracy)
    situation = Situation(
        halves=halves,
        both=both,
        checkpoint=Path("start.ckpt"),
        reference=nobody,
        targets=np.array(targets),
        chosen=not all(targets),
    )
    trials = Trials(merit)
    return screen(TuningOptions(budgets=(0.3, 0.1)), situation, trials, epochs), trials


def test_best_on_unseen_samples_comes_first():
    finalists, _ = found(lambda trial: 0.9 if "budget 0.1, floors 0.6, mult" in trial.name else 0.1, tilt=False)
    assert finalists[0].name == "loss, budget 0.1, floors 0.6, multiplicative"


def test_only_chosen_targets_count():
    def merit(trial):
        of_first = 0.9 if "budget 0.1, floors 0, add" in trial.name else 0.5
        return np.where(np.arange(100) < 50, of_first, 1 - of_first - 0.05)

    finalists, _ = found(merit, tilt=False, targets=(True, False))
    assert finalists[0].name == "loss, budget 0.1, floors 0, additive"


def test_best_that_keeps_the_class_masses_and_best_that_does_not_come_first():
    finalists, _ = found(lambda trial: 0.9 if "classes by error" in trial.name else 0.1)
    assert "classes by error" not in finalists[0].name
    assert "classes by error" in finalists[1].name
    assert "classes by error" in finalists[2].name


def test_no_more_epochs_are_spent_than_allowed():
    finalists, trials = found(lambda trial: 0.5, epochs=3)
    assert len(trials.names) == len(finalists) == 3
    finalists, trials = found(lambda trial: 0.5, epochs=0)
    assert (len(trials.names), len(finalists)) == (0, 1)  # the most promising, untried


def test_each_half_gets_weights_made_in_the_same_way():
    finalists, _ = found(lambda trial: 0.5)
    for finalist in finalists:
        (one, unseen_by_one), (two, unseen_by_two) = finalist.fits
        np.testing.assert_array_equal(one.values, two.values)  # the same influence on both here
        np.testing.assert_array_equal(unseen_by_one, ~unseen_by_two)


def test_last_fit_gets_weights_made_in_the_same_way_from_all_validation_data():
    finalists, _ = found(lambda trial: 0.5, tilt=False)
    maker = ProposalSolver({"loss": OF_BOTH}, np.ones(2, dtype=bool))
    ways = {str(way): way for way in proposals(["loss"], (0.3, 0.1), with_targets=False, with_tilt=False)}
    for finalist in finalists:
        np.testing.assert_array_equal(finalist.from_all.values, maker.weights(ways[finalist.name]).values)


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
    halves = tuple(Half({"loss": OPPOSED}, mask) for mask in (UNSEEN, ~UNSEEN))
    both = Half({"loss": OPPOSED}, np.zeros(100, dtype=bool))
    reference = measured([10, 10], seen=False)
    situation = Situation(
        halves=halves,
        both=both,
        checkpoint=Path("start.ckpt"),
        reference=reference,
        targets=np.array([True, False]),
        chosen=True,
    )
    script, trials = Scripted(*THRESHOLDS), Epochs(*outcomes)
    return search_thresholds(script, TuningOptions(), situation, trials, epochs), script, trials


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
