"""The model that a search starts from, the halves of the validation set, and the targets."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_pareto import InfluenceMatrix, ParetoCallback
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.categories import deal_folds
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.integration.tuner import starting_model
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.starting_model import (
    StartingModel,
    find_starting_model,
    halves_of,
    situation_of,
)
from lightning_pareto.integration.tuner.trial_result import TrialResult

FOLDS, SEED = 4, 5


def test_each_half_judges_only_samples_that_its_weights_do_not_know():
    """Each fold has its own number as influence, so the average reveals the folds that it is made of."""
    rng = np.random.default_rng(0)
    category = rng.integers(2, size=90)
    fold = deal_folds(torch.from_numpy(category), FOLDS, SEED).numpy()
    support = np.array([[((fold == f) & (category == k)).sum() for k in range(2)] for f in range(FOLDS)])
    scores = np.ones((FOLDS, 6, 2)) * 10.0 ** np.arange(FOLDS)[:, None, None]
    matrix = InfluenceMatrix(scores.mean(axis=0), np.arange(6) % 2, fold_scores=scores, fold_support=support)
    at = Outcome(category, rng.uniform(size=90) < 0.5, rng.uniform(size=90), ("0", "1"))
    start = StartingModel(TrialResult("given", at, 1, 1, np.zeros(1)), Path("x.ckpt"), at, matrix)
    halves = halves_of(start, InfluenceOptions(folds=FOLDS, seed=SEED), classes=True)
    for parity, half in enumerate(halves):
        known = fold % 2 == parity
        np.testing.assert_array_equal(half.unseen, ~known)
        np.testing.assert_array_equal(half.accuracy, at.on(known).accuracy)
        for k in range(2):
            expected = np.mean(10.0 ** fold[known & (category == k)])
            np.testing.assert_allclose(half.influence.scores[:, k], expected, rtol=1e-6)
    assert halves_of(start, InfluenceOptions(folds=FOLDS, seed=SEED), classes=False)[0].accuracy is None


def measured(*accuracy):
    """A model with these accuracies on three categories of 20 samples each."""
    category = np.arange(60) // 20
    correct = np.arange(60) % 20 < 20 * np.array(accuracy)[category]
    return Outcome(category, correct, correct.astype(float), ("a", "b", "c"))


class Trials:
    """Returns the same outcome for every trial, and keeps the trials."""

    def __init__(self, outcome):
        self.outcome, self.made = outcome, []

    def run(self, trial):
        self.made.append(trial)
        paths = (Path("best.ckpt"), Path("next.ckpt")) if trial.name == "first fit" else (None, None)
        return TrialResult(trial.name, self.outcome, 1, 1, np.zeros(1), *paths)

    def influence(self, trial):
        return matrix_of(60)


def matrix_of(samples, absent=None):
    folds, support = np.random.default_rng(0).normal(size=(FOLDS, samples, 3)), np.full((FOLDS, 3), 5)
    if absent is not None:
        folds[:, :, absent], support[:, absent] = np.nan, 0
    return InfluenceMatrix(folds.mean(axis=0), np.arange(samples) % 3, fold_scores=folds, fold_support=support)


CALLBACK = ParetoCallback(folds=FOLDS, seed=SEED)


@pytest.mark.parametrize(
    ("options", "targets"),
    [
        ({"mode": "course_correction", "epsilon": 0.12}, [False, True, False]),
        ({"mode": "course_correction", "epsilon": 0.0}, [True, True, False]),
        ({"mode": "direct", "search": "mass_preserving"}, [True, True, True]),
        ({"mode": "direct", "search": "genetic"}, [False, True, False]),
        ({"mode": "direct", "search": "genetic", "targets": [2]}, [False, False, True]),
    ],
)
@pytest.mark.parametrize("absent", [None, 1])
def test_targets_of_each_mode(options, targets, absent):
    """The ordinary epoch goes from 80, 60 and 90 % to 70, 40 and 90 %."""
    options = TuningOptions(**options)
    at = measured(0.8, 0.6, 0.9)
    given = TrialResult("given", at, 1, 1, np.zeros(1))
    start = StartingModel(given, Path("x.ckpt"), at, matrix_of(6, absent))
    trials = Trials(measured(0.7, 0.4, 0.9))
    found = situation_of(trials, options, start, CALLBACK)
    assert found.targets.tolist() == [yes and k != absent for k, yes in enumerate(targets)]
    corrects = options.mode == "course_correction"
    assert found.chosen is (corrects or options.targets is not None)
    np.testing.assert_allclose(found.reference.accuracy, [0.7, 0.4, 0.9] if corrects else [0.8, 0.6, 0.9])
    assert [trial.name for trial in trials.made] == ["ordinary epoch"] * corrects


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, "best.ckpt"),
        ({"search": "genetic"}, "next.ckpt"),
        ({"mode": "course_correction"}, "next.ckpt"),
    ],
)
def test_influence_is_estimated_where_trials_are_compared(options, where, monkeypatch):
    monkeypatch.setattr(starting_model, "check_can_continue", lambda checkpoint: None)
    trials = Trials(measured(0.8, 0.6, 0.9))
    found = find_starting_model(trials, TuningOptions(**options), None)
    (look,) = [trial for trial in trials.made if trial.analyse]
    assert look.checkpoint == Path(where)
    assert (found.given.checkpoint, found.following) == (Path("best.ckpt"), Path("next.ckpt"))


def test_given_checkpoint_replaces_the_first_fit(monkeypatch):
    checked = []
    monkeypatch.setattr(starting_model, "check_can_continue", checked.append)
    trials = Trials(measured(0.8, 0.6, 0.9))
    found = find_starting_model(trials, TuningOptions(), Path("given.ckpt"))
    assert [(trial.name, trial.analyse, trial.checkpoint) for trial in trials.made] == [
        ("influence", True, Path("given.ckpt"))
    ]
    assert checked == [Path("given.ckpt")] == [found.given.checkpoint] == [found.following]
