"""The fits of a search that may be returned."""

from pathlib import Path

import numpy as np
import pytest

from lightning_pareto import SampleWeights
from lightning_pareto.integration.tuner.final_fits import FinalFits
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.search import Finalist, Half, Situation
from lightning_pareto.integration.tuner.starting_model import StartingModel
from lightning_pareto.integration.tuner.trial_result import TrialResult
from tests.integration.tuner.test_starting_model import Trials, matrix_of, measured

UNSEEN = np.arange(60) % 3 == 0
WEIGHTS = SampleWeights(np.linspace(0, 2, 6))
BEFORE = TrialResult("ordinary", measured(0.8, 0.6, 0.9), 1, 1, np.zeros(1))


def fits_of(trials, **options):
    at = measured(0.8, 0.6, 0.9)
    given = TrialResult("given", at, 1, 1, np.zeros(1), Path("best.ckpt"))
    start = StartingModel(given, Path("next.ckpt"), at, matrix_of(6))
    situation = Situation(
        halves=tuple(Half(start.influence, mask) for mask in (UNSEEN, ~UNSEEN)),
        both=Half(start.influence, np.zeros(60, dtype=bool)),
        checkpoint=start.following,
        reference=at,
        targets=np.ones(3, dtype=bool),
        chosen=False,
    )
    return FinalFits(trials, TuningOptions(**options), start, situation)


@pytest.mark.parametrize(
    ("refit", "start", "checkpoint", "epochs"),
    [
        ("scratch", "initial", None, None),
        ("continue", "weights", Path("best.ckpt"), None),
        ("epoch", "checkpoint", Path("next.ckpt"), 1),
    ],
)
def test_ordinary_and_weighted_fits_differ_only_in_the_weights(refit, start, checkpoint, epochs):
    trials = Trials(measured(1.0, 1.0, 1.0))
    fits = fits_of(trials, refit=refit)
    fits.ordinary()
    fits.tried(Finalist("weights", ((WEIGHTS, UNSEEN), (WEIGHTS, ~UNSEEN))), BEFORE)
    ordinary, first, second = trials.made
    assert [trial.weights for trial in trials.made] == [None, WEIGHTS, WEIGHTS]
    assert ordinary.name == ("ordinary epoch" if refit == "epoch" else "ordinary fit")
    assert [first.name, second.name] == ["refit 1, weights", "refit 2, weights"]
    for trial in trials.made:
        assert (trial.start, trial.checkpoint, trial.epochs, trial.keeps) == (start, checkpoint, epochs, True)
        assert trial.joins is None


@pytest.mark.parametrize(("after", "made"), [((0.8, 0.6, 0.9), 2), ((0.8, 0.5, 0.9), 1), ((1.0, 1.0, 0.1), 1)])
def test_no_second_fit_follows_a_first_that_falls_behind_or_does_harm(after, made):
    trials = Trials(measured(*after))
    found = fits_of(trials).tried(Finalist("weights", ((WEIGHTS, UNSEEN), (WEIGHTS, ~UNSEEN))), BEFORE)
    assert len(trials.made) == len(found.results) == len(found.finalist.fits) == made


def test_refit_trains_on_samples_that_its_weights_know_and_is_measured_on_the_others():
    at = measured(0.8, 0.6, 0.9)
    trials = Trials(measured(1.0, 1.0, 1.0).on(UNSEEN))
    fits = fits_of(trials, include_validation=True)
    (result,) = fits.tried(Finalist("weights", ((WEIGHTS, UNSEEN),)), None).results
    np.testing.assert_array_equal(trials.made[0].joins, ~UNSEEN)
    np.testing.assert_array_equal(trials.made[0].weights.values, [*WEIGHTS.values, *np.ones(40)])
    np.testing.assert_array_equal(result.outcome.correct, np.where(UNSEEN, True, at.correct))


def test_fits_with_validation_data_alone_have_no_weights():
    halves = iter([measured(1.0, 1.0, 1.0).on(mask) for mask in (UNSEEN, ~UNSEEN)])
    trials = Trials(None)
    trials.run = lambda trial: trials.made.append(trial) or TrialResult("", next(halves), 1, 1, np.zeros(1))
    found = fits_of(trials, include_validation=True).joined()
    for trial, unseen in zip(trials.made, (UNSEEN, ~UNSEEN), strict=True):
        np.testing.assert_array_equal(trial.joins, ~unseen)
        np.testing.assert_array_equal(trial.weights.values, np.ones(6 + (~unseen).sum()))
    assert found.outcome.correct.all()
    assert [weights for weights, _ in found.finalist.fits] == [None, None]


def test_last_fit_trains_on_everything_for_the_given_epochs():
    trials = Trials(measured(1.0, 1.0, 1.0))
    fits_of(trials, include_validation=True).last(7, Finalist("weights", (), from_all=WEIGHTS))
    (trial,) = trials.made
    assert (trial.stops_after, trial.complete, trial.unmeasured) == (7, False, True)
    np.testing.assert_array_equal(trial.weights.values, [*WEIGHTS.values, *np.ones(60)])
