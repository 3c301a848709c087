"""The fits of a search that may be returned."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lightning_pareto.integration.tuner.judge import Tried
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.remedies import Remedy
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
        if finalist.candidate is not None:
            remedies = (self._remedied(f"half {number}, {finalist.name}", finalist, *fit) for number, fit in fits)
            return Tried(finalist, tuple(remedies))
        return Tried(finalist, tuple(self._tried(f"{number}, {finalist.name}", *fit) for number, fit in fits))

    def joined(self) -> Tried:
        """Fits on the training data and either half of the validation data, without weights."""
        halves = self._situation.halves
        return self.tried(Finalist("without weights", tuple((None, half.unseen) for half in halves)))

    def last(self, epochs: int, finalist: Finalist) -> TrialResult:
        """The same with all validation data. A fit takes this number of epochs."""
        everything = np.ones(len(self._start.at.category), dtype=bool)
        if finalist.candidate is not None:
            return self._remedied(f"all validation data, {finalist.name}", finalist, finalist.from_all, ~everything)
        trial = self._with_validation("last fit, validation data included", finalist.from_all, everything)
        return self._trials.run(replace(trial, stops_after=epochs))

    def _remedied(
        self, name: str, finalist: Finalist, weights: SampleWeights | None, unseen: npt.NDArray[np.bool_]
    ) -> TrialResult:
        """The given model after a candidate's change."""
        assert finalist.candidate is not None
        assert weights is not None
        at = self._start.at
        remedy = Remedy(finalist.candidate, ~unseen, at.category, len(at.category_names), weights)
        given = self._start.given.checkpoint
        return self._trials.run(Trial(name, "checkpoint", 0, checkpoint=given, keeps=True, remedy=remedy))

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
