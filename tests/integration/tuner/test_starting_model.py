"""The halves of the validation set, and what a search is asked to raise."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_pareto.integration.tuner.steps import Analysis, LastFits, _halves, situation_of

from lightning_pareto import InfluenceMatrix, SampleWeights
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.categories import deal_folds
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.integration.tuner import steps
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.search import Finalist
from lightning_pareto.integration.tuner.trial_result import TrialResult

FOLDS, SEED = 4, 5


def test_a_half_judges_only_what_its_weights_do_not_know():
    """Every fold's influence is its own number, so that the average says which folds it is made of."""
    rng = np.random.default_rng(0)
    category = rng.integers(2, size=90)
    fold = deal_folds(torch.from_numpy(category), FOLDS, SEED).numpy()
    support = np.array([[((fold == f) & (category == k)).sum() for k in range(2)] for f in range(FOLDS)])
    scores = np.ones((FOLDS, 6, 2)) * 10.0 ** np.arange(FOLDS)[:, None, None]
    matrix = InfluenceMatrix(scores.mean(axis=0), np.arange(6) % 2, fold_scores=scores, fold_support=support)
    at = Outcome(category, rng.uniform(size=90) < 0.5, rng.uniform(size=90), ("0", "1"))
    analysis = Analysis(TrialResult("given", at, 1, 1, np.zeros(1)), Path("x.ckpt"), at, {"loss": matrix})
    halves = _halves(analysis, InfluenceOptions(folds=FOLDS, seed=SEED), classes=True)
    for parity, half in enumerate(halves):
        known = fold % 2 == parity
        np.testing.assert_array_equal(half.unseen, ~known)
        np.testing.assert_array_equal(half.accuracy, at.on(known).accuracy)
        for k in range(2):
            expected = np.mean(10.0 ** fold[known & (category == k)])
            np.testing.assert_allclose(half.influences["loss"].scores[:, k], expected, rtol=1e-6)
    assert _halves(analysis, InfluenceOptions(folds=FOLDS, seed=SEED), classes=False)[0].accuracy is None


def measured(*accuracy):
    """Right on these shares of three categories of 20 samples each."""
    category = np.arange(60) // 20
    correct = np.arange(60) % 20 < 20 * np.array(accuracy)[category]
    return Outcome(category, correct, correct.astype(float), ("a", "b", "c"))


class Trials:
    """Answers every trial with one outcome, and keeps what was asked."""

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


CALLBACK = SimpleNamespace(data=SimpleNamespace(categories=None), options=InfluenceOptions(folds=FOLDS, seed=SEED))


@pytest.mark.parametrize(
    ("options", "targets"),
    [
        ({"mode": "course_correction", "epsilon": 0.12}, [False, True, False]),
        ({"mode": "course_correction", "epsilon": 0.0}, [True, True, False]),
        ({"mode": "direct", "search": "screening"}, [True, True, True]),
        ({"mode": "direct", "search": "genetic"}, [False, True, False]),
        ({"mode": "direct", "search": "genetic", "targets": [2]}, [False, False, True]),
    ],
)
@pytest.mark.parametrize("absent", [None, 1])
def test_the_targets(options, targets, absent):
    """From 80, 60 and 90 % to 70, 40 and 90 %."""
    options = TuningOptions(**options)
    at = measured(0.8, 0.6, 0.9)
    given = TrialResult("given", at, 1, 1, np.zeros(1))
    analysis = Analysis(given, Path("x.ckpt"), at, {"loss": matrix_of(6, absent)})
    found = situation_of(Trials(measured(0.7, 0.4, 0.9)), options, analysis, CALLBACK)
    assert found.targets.tolist() == [yes and k != absent for k, yes in enumerate(targets)]


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, "best.ckpt"),
        ({"search": "genetic"}, "next.ckpt"),
        ({"mode": "course_correction"}, "next.ckpt"),
    ],
)
def test_influence_is_taken_where_trials_are_compared(options, where, monkeypatch):
    monkeypatch.setattr(steps, "check_goes_on", lambda checkpoint: None)
    trials = Trials(measured(0.8, 0.6, 0.9))
    found = steps.analyse(trials, TuningOptions(**options), None)
    (look,) = [trial for trial in trials.made if trial.analyse]
    assert look.checkpoint == Path(where)
    assert (found.given.checkpoint, found.following) == (Path("best.ckpt"), Path("next.ckpt"))


def test_a_refit_is_trained_on_the_samples_that_its_weights_know_and_measured_on_the_others():
    at = measured(0.8, 0.6, 0.9)
    analysis = Analysis(TrialResult("given", at, 1, 1, np.zeros(1)), Path("x.ckpt"), at, {"loss": matrix_of(6)})
    unseen, weights = np.arange(60) % 3 == 0, SampleWeights(np.linspace(0, 2, 6))
    trials = Trials(measured(1.0, 1.0, 1.0).on(unseen))
    fits = LastFits(trials, TuningOptions(include_validation=True), analysis, SimpleNamespace())
    (result,) = fits.tried(Finalist("way", ((weights, unseen),))).results
    np.testing.assert_array_equal(trials.made[0].joins, ~unseen)
    np.testing.assert_array_equal(trials.made[0].weights.values, [*weights.values, *np.ones(40)])
    np.testing.assert_array_equal(result.outcome.correct, np.where(unseen, True, at.correct))
