"""The fits of a search that may be returned."""

from dataclasses import replace

import numpy as np

from lightning_pareto.integration.tuner.judge import Tried
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.search import Finalist, Situation
from lightning_pareto.integration.tuner.starting_model import FIRST_FIT, StartingModel
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.integration.tuner.trials import Trials
from lightning_pareto.reweighting.weights import SampleWeights


class FinalFits:
    """Makes the fits that may be returned.

    Args:
        trials: runs them.
        options: their kind.
        start: where they start.
        situation: likewise.
    """

    def __init__(self, trials: Trials, options: TuningOptions, start: StartingModel, situation: Situation) -> None:
        self._trials = trials
        self._kind, self._joins = options.last_fit, options.include_validation
        self._start = start
        self._situation = situation

    def ordinary(self) -> TrialResult:
        """The fit to compare with."""
        return self._trials.run(self._trial("ordinary epoch" if self._kind == "epoch" else "ordinary fit", None))

    def tried(self, finalist: Finalist) -> Tried:
        """The fits of a finalist. They may also train on the validation samples that the weights know."""
        fits = enumerate(finalist.fits, 1)
        return Tried(finalist, tuple(self._tried(f"{number}, {finalist.name}", *fit) for number, fit in fits))

    def joined(self) -> Tried:
        """Fits on the training data and either half of the validation data, without weights."""
        halves = self._situation.halves
        return self.tried(Finalist("without weights", tuple((None, half.unseen) for half in halves)))

    def last(self, epochs: int, weights: SampleWeights | None) -> TrialResult:
        """A fit with these weights on the training data and on all validation data."""
        everything = np.ones(len(self._start.at.category), dtype=bool)
        trial = self._with_validation("last fit, validation data included", weights, everything)
        return self._trials.run(replace(trial, stops_after=epochs))

    def _tried(self, name: str, weights: SampleWeights | None, unseen: np.ndarray) -> TrialResult:
        if not self._joins:
            return self._trials.run(self._trial(f"refit {name}", weights))
        result = self._trials.run(self._with_validation(f"refit with half {name}", weights, ~unseen))
        return replace(result, outcome=result.outcome.placed(unseen, self._start.at))

    def _with_validation(self, name: str, weights: SampleWeights | None, joins: np.ndarray) -> Trial:
        values = np.ones(len(self._start.influence.labels)) if weights is None else weights.values
        both = SampleWeights(np.append(values, np.ones(joins.sum())))
        return replace(FIRST_FIT, name=name, weights=both, joins=joins)

    def _trial(self, name: str, weights: SampleWeights | None) -> Trial:
        if self._kind == "epoch":
            return self._situation.epoch(name, weights, keeps=True)
        if self._kind == "scratch":
            return replace(FIRST_FIT, name=name, weights=weights)
        return Trial(name, "weights", None, self._start.given.checkpoint, weights, keeps=True)
