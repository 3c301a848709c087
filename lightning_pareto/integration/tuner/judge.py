"""Chooses the model that a search returns: one that does no harm."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.terminal import listed
from lightning_pareto.evaluation.change import ClasswiseChange, Tolerance, tolerance_of
from lightning_pareto.evaluation.outcome import Outcome, pooled
from lightning_pareto.evaluation.result import Attempt, ParetoResult, TrialSummary
from lightning_pareto.integration.tuner.search import Finalist
from lightning_pareto.integration.tuner.trial_result import TrialResult

CONFIRMING = 0.16
"""Level of the test of the mean if the verdict is *yes*: one standard error.

In that case the verdict has already bounded the false alarms at its own level. The fits only have to show that the gain
survives more than a small step.
"""


@dataclass(frozen=True, eq=False)
class HarmTest:
    """Which categories fall beyond chance, and by more than is tolerated.

    Attributes:
        level: family-wise level over the categories.
        tolerance: accuracy that categories may lose.
    """

    level: float
    tolerance: Tolerance = 0.0

    def __call__(self, before: Outcome, after: Outcome) -> npt.NDArray[np.bool_]:
        """Which do, (K,) bool."""
        return ClasswiseChange(before, after, tolerance=self.tolerance).lost(self.level)


@dataclass(frozen=True, eq=False)
class Tried:
    """A finalist and its fits.

    Attributes:
        finalist: how the weights were made.
        results: one fit for each of its weights.
    """

    finalist: Finalist
    results: tuple[TrialResult, ...]

    @property
    def name(self) -> str:
        """What was tried, in words."""
        if self.finalist.fits[0][0] is None:
            return "fits with half of the validation data and no weights"
        weights = f"a fit with weights ({self.finalist.name})"
        return self.finalist.name if self.finalist.candidate is not None else weights

    @property
    def measured_on(self) -> npt.NDArray[np.bool_]:
        """Validation samples that the weights of some fit have not seen, (n,) bool."""
        some: npt.NDArray[np.bool_] = np.any([unseen for _, unseen in self.finalist.fits], axis=0)
        return some

    @property
    def outcome(self) -> Outcome:
        """Each fit on the samples that its weights have not seen."""
        parts = zip(self.results, self.finalist.fits, strict=True)
        return pooled([(result.outcome, unseen) for result, (_, unseen) in parts])

    def against(self, other: TrialResult) -> ClasswiseChange:
        """The change from an ordinary model, on the same samples."""
        return ClasswiseChange(other.outcome.on(self.measured_on), self.outcome)

    def beyond(self, other: "Tried") -> ClasswiseChange:
        """The change from other fits that were measured on at least these samples."""
        return ClasswiseChange(other.outcome.on(self.measured_on[other.measured_on]), self.outcome)

    def harmed(self, others: Sequence[TrialResult], falls: HarmTest) -> npt.NDArray[np.bool_]:
        """Which categories fall beyond chance against any of some ordinary models, (K,)."""
        outcomes = [other.outcome.on(self.measured_on) for other in others]
        found: npt.NDArray[np.bool_] = np.any([falls(outcome, self.outcome) for outcome in outcomes], axis=0)
        return found

    def harmless_fit(self, others: Sequence[TrialResult], falls: HarmTest) -> int | None:
        """Number of the fit to return: of those that harm nothing on their own samples, the one that gains most.

        Args:
            others: ordinary models, the one to beat first.
            falls: the test for harm.
        """
        gains = {}
        for number, (result, (_, unseen)) in enumerate(zip(self.results, self.finalist.fits, strict=True)):
            outcome, before = result.outcome.on(unseen), [other.outcome.on(unseen) for other in others]
            if not any(falls(ordinary, outcome).any() for ordinary in before):
                gains[number] = outcome.macro - before[0].macro
        return max(gains, key=lambda number: gains[number]) if gains else None

    def is_harmless(self, others: Sequence[TrialResult], falls: HarmTest) -> bool:
        """Whether no category falls, in all fits together and in one of them."""
        return self.harmless_fit(others, falls) is not None and not self.harmed(others, falls).any()


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Does no harm: a model has to beat the best ordinary one beyond chance, and to harm no category.

    It beats it if the mean over the categories rises beyond chance, or if some category does and the mean does not
    fall.

    The ordinary fit replaces the given model only if it is better in the mean and no category falls beyond chance.
    Levels for gains are divided by the number of finalists and by the looks that chose them. If the verdict is *yes*,
    less is enough, see :data:`CONFIRMING`. That level is not divided for larger steps of the kind that the verdict is
    about: the first candidate, and the fit with weights that keep the masses of the classes. Harm is tested in both
    fits of a finalist together, and in the returned one on its own samples.

    If validation data are also trained on, then so they are in all finalists. Those have to beat the fits with
    validation data and without weights, which in turn must not fall in the mean and must do no harm. The weights are
    then good enough if the mean is higher and the verdict is *yes*, or if the mean is not lower and the weakest
    category is higher by more than its standard error: all of these models do no harm.

    A fit with half of the validation data chooses its best epoch on the half that measures it, an ordinary fit on both
    halves. In simulated fits without any difference, over twenty epochs and 2,000 samples, this looked better by half a
    standard error (0.25 points). The tests kept their levels, but the reported gain is too high by that much.

    Among accepted finalists whose means differ by no more than their error, the one with the highest lowest category is
    chosen.

    Attributes:
        level: level of the tests.
        improvable: whether the verdict is *yes*.
        tolerance: accuracy that categories may lose.
    """

    level: float
    improvable: bool
    tolerance: Tolerance = 0.0

    @property
    def falls(self) -> HarmTest:
        """The test for harm."""
        return HarmTest(self.level, self.tolerance)

    def choose(
        self,
        given: TrialResult,
        ordinary: TrialResult,
        tried: Sequence[Tried],
        *,
        trials: Iterable[TrialResult],
        joined: Tried | None = None,
        planned: int = 0,
    ) -> tuple[ParetoResult, Tried | None]:
        """Choose the model to return.

        Args:
            given: the model to start with.
            ordinary: an ordinary fit of the same budget.
            tried: reweighted fits of the same budget.
            trials: all trials, to report.
            joined: fits without weights on the training data and either half of the validation data.
            planned: how many finalists there may be in the end, if more are to follow.

        Returns:
            The result, and the fits whose model is returned; None for an ordinary model.
        """
        improved = ordinary.outcome.macro > given.outcome.macro
        incumbent = ordinary if improved and not self.falls(given.outcome, ordinary.outcome).any() else given
        ordinaries, summaries = (incumbent, given), [result.summary for result in trials]
        serves = joined is not None and joined.against(incumbent).macro >= 0
        more = joined if serves and joined is not None and joined.is_harmless(ordinaries, self.falls) else None
        kinds = tried if joined is None else [joined, *tried]
        made = {one: (one.against(incumbent), one.harmed(ordinaries, self.falls)) for one in kinds}
        attempts = {one: Attempt.of(one.name, change, harmed) for one, (change, harmed) in made.items()}
        report = functools.partial(_result, given, incumbent, summaries=summaries, attempts=attempts)
        count = max(planned, len(tried))
        better = [one for one in tried if self._gains(one, incumbent, more, count)]
        harmless = [one for one in better if one.is_harmless(ordinaries, self.falls)]
        if harmless:
            chosen = _preferred(harmless, incumbent)
            return self._accept(chosen, given, incumbent, more, report), chosen
        refused = max(tried, key=lambda one: one.against(incumbent).macro, default=None)
        if more is not None:
            result = self._accept(more, given, incumbent, None, report)
            return (result if refused is None else _with_refused(result, refused.beyond(more))), more
        best = refused or joined
        if best is None:
            reason, change = "No weights promised a gain", ClasswiseChange(incumbent.outcome, incumbent.outcome)
        else:
            change = best.against(incumbent)
            reason = f"{_measured(change)}, {self._objection(best, ordinaries)}"
        reason = f"{reason}. The best ordinary model is returned."
        result = report(None, compared=change, reason=reason)
        return (result if refused is None else _with_refused(result, refused.against(incumbent))), None

    def _gains(self, one: Tried, incumbent: TrialResult, joined: Tried | None, count: int) -> bool:
        """Whether one of ``count`` finalists gains more than is possible without weights."""
        looks = one.finalist.looks * count
        confirming = 1 if one.finalist.confirms else looks
        if joined is None:
            change = one.against(incumbent)
            return change.rises(self.level, looks) or (self.improvable and change.p_gain * confirming <= CONFIRMING)
        change, weakest = one.beyond(joined), int(np.nanargmin(incumbent.outcome.accuracy))
        helps_the_weakest = change.macro >= 0 and bool(change.p_rise[weakest] * looks <= CONFIRMING)
        return change.rises(self.level, looks) or helps_the_weakest or (self.improvable and change.macro > 0)

    def _accept(
        self,
        one: Tried,
        given: TrialResult,
        incumbent: TrialResult,
        joined: Tried | None,
        report: Callable[..., ParetoResult],
    ) -> ParetoResult:
        change, number = one.against(incumbent), one.harmless_fit((incumbent, given), self.falls)
        assert number is not None
        made = one.name
        text = f"{_measured(change)}{self._rising(change)}. No category falls{self._beyond}."
        reason = f"{made[0].upper()}{made[1:]}: {text[0].lower()}{text[1:]}"
        if joined is not None:
            more = _points(one.beyond(joined))
            if one.finalist.candidate is None:
                reason += f" The weights contribute {more}, the validation data the rest."
            else:
                reason += f" Fits with validation data and without weights are {more} behind."
        return report((one, number), compared=change, reason=reason)

    def _objection(self, best: Tried, ordinaries: Sequence[TrialResult]) -> str:
        harmed = best.harmed(ordinaries, self.falls)
        lost = [repr(name) for name, yes in zip(ordinaries[0].outcome.category_names, harmed, strict=True) if yes]
        if lost:
            return f"but {listed(lost, 5)} would fall{self._beyond}"
        if best.harmless_fit(ordinaries, self.falls) is None:
            return f"but in each of the models some category would fall{self._beyond}"
        gains = best.against(ordinaries[0]).macro > 0
        return "which is too little to be sure of" if gains else "which is no gain"

    @property
    def _beyond(self) -> str:
        tolerant = tolerance_of(self.tolerance).any()
        return " by more than tolerated, beyond chance" if tolerant else " beyond chance"

    def _rising(self, change: ClasswiseChange) -> str:
        risen = zip(change.after.category_names, change.risen(self.level), strict=True)
        names = [repr(name) for name, yes in risen if yes]
        return f", and {listed(names, 5)} {'rises' if len(names) == 1 else 'rise'} beyond chance" if names else ""


def _preferred(printable: Sequence[Tried], incumbent: TrialResult) -> Tried:
    """The best in the mean, or of those within an error of it the one whose lowest category is highest."""
    best = max(printable, key=lambda one: one.against(incumbent).macro)
    level_with = [one for one in printable if one is best or _is_level(best, one)]
    return max(level_with, key=lambda one: float(np.nanmin(one.outcome.accuracy)))


def _is_level(best: Tried, one: Tried) -> bool:
    if not np.array_equal(best.measured_on, one.measured_on):
        return False
    change = ClasswiseChange(best.outcome, one.outcome)
    return change.macro >= -change.macro_error


def _with_refused(result: ParetoResult, change: ClasswiseChange) -> ParetoResult:
    """The result with what another model than the returned one would have achieved."""
    return replace(result, refused=result.after + change.accuracy)


def _measured(change: ClasswiseChange) -> str:
    return f"The mean accuracy changes by {_points(change)}"


def _points(change: ClasswiseChange) -> str:
    return f"{100 * change.macro:+.1f} ± {100 * change.macro_error:.1f} points"


def _result(
    given: TrialResult,
    incumbent: TrialResult,
    accepted: tuple[Tried, int] | None,
    *,
    compared: ClasswiseChange,
    reason: str,
    summaries: list[TrialSummary],
    attempts: Mapping[Tried, Attempt],
) -> ParetoResult:
    change, weights, model = ClasswiseChange(given.outcome, incumbent.outcome), None, incumbent
    better = False
    if accepted is not None:
        one, number = accepted
        change, model = one.against(given), one.results[number]
        weights = one.finalist.fits[number][0]
        better = weights is not None
        if one.finalist.candidate is not None:
            weights = None
    return ParetoResult(
        category_names=given.outcome.category_names,
        before=change.before.accuracy,
        after=change.after.accuracy,
        support=change.before.support,
        p_values=change.p_loss,
        refused=np.full(len(given.outcome.category_names), np.nan),
        gain=compared.macro,
        gain_error=compared.macro_error,
        accepted=better,
        reason=reason,
        weights=weights,
        ckpt_path=str(model.checkpoint),
        best_epoch=model.best_epoch,
        epochs_spent=sum(trial.epochs for trial in summaries),
        trials=tuple(summaries),
        ordinary=incumbent.outcome.accuracy,
        attempts=tuple(
            replace(attempt, returned=accepted is not None and one is accepted[0]) for one, attempt in attempts.items()
        ),
    )


def epochs_for(results: Sequence[TrialResult]) -> int:
    """Number of epochs for one more fit that nothing can measure: after which these fits were best together.

    The best epoch of a single fit is a matter of chance, and in the middle of a learning rate schedule it costs
    accuracy.
    """
    if any(len(result.history) != result.epochs for result in results):  # not one validation an epoch
        return round(sum(result.best_epoch for result in results) / len(results))
    length = min(result.epochs for result in results)
    return int(np.mean([result.history[:length] for result in results], axis=0).argmax()) + 1


def with_validation(
    result: ParetoResult, one: Tried, epochs: int, last: TrialResult, trials: Iterable[TrialResult]
) -> ParetoResult:
    """The result with the model of a last fit that has seen all of the validation data.

    Args:
        result: what was measured.
        one: the chosen fits.
        epochs: epochs of the last fit.
        last: the fit with all validation data, and weights made from all of them.
        trials: all trials, to report.
    """
    summaries = [trial.summary for trial in trials if trial is not last]
    summaries.append(TrialSummary(last.name, last.epochs, np.nan, np.nan))
    return replace(
        result,
        reason=f"{result.reason} The returned model was then fitted with all of the validation data, so nothing is "
        "left that could measure it. These figures are of fits with one half, each measured on the other.",
        weights=one.finalist.from_all if one.finalist.candidate is None else None,
        best_epoch=epochs,
        ckpt_path=str(last.checkpoint),
        epochs_spent=sum(trial.epochs for trial in summaries),
        trials=tuple(summaries),
    )
