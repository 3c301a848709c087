"""The fits of a search that may be returned."""

from dataclasses import replace

import numpy as np

from lightning_pareto.integration.tuner.judge import HarmTest, Tried
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.remedies import Remedy
from lightning_pareto.integration.tuner.search import Finalist, Half, Situation
from lightning_pareto.integration.tuner.starting_model import FIRST_FIT, StartingModel
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.integration.tuner.trials import Trials
from lightning_pareto.reweighting.weights import SampleWeights, weights_from


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
        self._falls = HarmTest(options.level, options.tolerance)
        self._start = start
        self._situation = situation

    def ordinary(self) -> TrialResult:
        """The fit to compare with."""
        return self._trials.run(self._trial("ordinary epoch" if self._kind == "epoch" else "ordinary fit", None))

    def proposed(self, finalist: Finalist) -> Tried | Finalist:
        """The given model after a candidate's change, one for each half; a finalist if it proposes weights instead."""
        pairs = enumerate(zip(finalist.fits, self._situation.halves, strict=True), 1)
        results = [self._remedied(f"half {n}, {finalist.name}", finalist, w, half) for n, ((w, _), half) in pairs]
        if any(result.proposed is None for result in results):
            return Tried(finalist, tuple(results))
        halves, both = self._situation.halves, self._situation.both
        weights = [self._weights(result, half) for result, half in zip(results, halves, strict=True)]
        assert weights[0] is not None
        assert weights[1] is not None
        if not self._joins and np.array_equal(weights[0].values, weights[1].values):  # it knows no validation data
            return Finalist(finalist.name, ((weights[0], ~both.unseen),))
        fits = tuple((own, half.unseen) for own, half in zip(weights, halves, strict=True))
        if not self._joins:
            return Finalist(finalist.name, fits)
        return Finalist(finalist.name, fits, from_all=self._weights(self._made_of_all(finalist), both))

    @staticmethod
    def _weights(result: TrialResult, half: Half) -> SampleWeights | None:
        if result.proposed is None:
            return None
        return weights_from(half.influence, result.proposed, proposal=result.name)

    def tried(self, finalist: Finalist, rival: TrialResult | None) -> Tried:
        """The fits of a finalist. They may also train on the validation samples that the weights know.

        Args:
            finalist: the weights.
            rival: no second fit is made if the first one falls behind it in the mean, or harms a category.
        """
        results = list[TrialResult]()
        for number, (weights, unseen) in enumerate(finalist.fits, 1):
            results.append(self._tried(f"{number}, {finalist.name}", weights, unseen))
            if rival is not None:
                before, after = rival.outcome.on(unseen), results[-1].outcome.on(unseen)
                if after.macro < before.macro or self._falls(before, after).any():
                    break
        return Tried(replace(finalist, fits=finalist.fits[: len(results)]), tuple(results))

    def joined(self) -> Tried:
        """Fits on the training data and either half of the validation data, without weights."""
        finalist = Finalist("without weights", tuple((None, half.unseen) for half in self._situation.halves))
        fits = enumerate(finalist.fits, 1)
        return Tried(finalist, tuple(self._tried(f"{number}, {finalist.name}", *fit) for number, fit in fits))

    def last(self, epochs: int, finalist: Finalist) -> TrialResult:
        """The same with all validation data. A fit takes this number of epochs."""
        if finalist.candidate is not None:
            return self._made_of_all(finalist)
        name, everything = "last fit, validation data included", ~self._situation.both.unseen
        trial = self._with_validation(name, finalist.from_all, everything)
        return self._trials.run(replace(trial, stops_after=epochs))

    def _made_of_all(self, finalist: Finalist) -> TrialResult:
        name = f"all validation data, {finalist.name}"
        return self._remedied(name, finalist, finalist.from_all, self._situation.both)

    def _remedied(self, name: str, finalist: Finalist, weights: SampleWeights | None, half: Half) -> TrialResult:
        """The given model after a change that a candidate makes, knowing one half or all of the validation set."""
        assert finalist.candidate is not None
        assert weights is not None
        remedy = Remedy(finalist.candidate, ~half.unseen, self._start.at.category, half.influence, weights)
        given = self._start.given.checkpoint
        trial = Trial(name, "checkpoint", 0, checkpoint=given, keeps=True, remedy=remedy)
        result = self._trials.run(trial)
        if trial.unmeasured:
            return result
        return replace(result, outcome=result.outcome.placed(half.unseen, self._start.at))

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
