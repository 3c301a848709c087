"""Which model a search hands back: one that does no harm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.terminal import listed
from lightning_pareto.evaluation.outcome import Change, Outcome, pooled
from lightning_pareto.evaluation.result import ParetoResult, TrialSummary
from lightning_pareto.integration.tuner.search import Finalist
from lightning_pareto.integration.tuner.trial_result import TrialResult, summary_of

CONFIRMING = 0.16
"""Level of the test of the mean where the verdict is *yes*: one standard error, for one finalist.

The verdict has then bounded the false alarms at its own level; the fits have to show that the gain outlasts the small
step that it speaks of.
"""


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
    def measured_on(self) -> np.ndarray:
        """Validation samples that some fit's weights have not seen, (n,) bool."""
        some: np.ndarray = np.any([unseen for _, unseen in self.finalist.fits], axis=0)
        return some

    @property
    def outcome(self) -> Outcome:
        """Each fit on the samples that its weights have not seen."""
        parts = zip(self.results, self.finalist.fits, strict=True)
        return pooled([(result.outcome, unseen) for result, (_, unseen) in parts])

    def against(self, other: TrialResult) -> Change:
        """The change from an ordinary model, on the same samples."""
        return Change(other.outcome.on(self.measured_on), self.outcome)

    def beyond(self, other: "Tried") -> Change:
        """The change from other fits that were measured on these samples at least."""
        return Change(other.outcome.on(self.measured_on[other.measured_on]), self.outcome)

    def harmed(self, others: Sequence[TrialResult], level: float) -> npt.NDArray[np.bool_]:
        """Which categories fall beyond chance against any of some ordinary models, (K,)."""
        found: npt.NDArray[np.bool_] = np.any([self.against(other).lost(level) for other in others], axis=0)
        return found

    def harmless_fit(self, others: Sequence[TrialResult], level: float) -> int | None:
        """Number of the fit to hand back: of those that harm nothing on their own samples, the one that gains most.

        Args:
            others: ordinary models, the one to beat first.
            level: of the test for harm.
        """
        gains = {}
        for number, (result, (_, unseen)) in enumerate(zip(self.results, self.finalist.fits, strict=True)):
            changes = [Change(other.outcome.on(unseen), result.outcome.on(unseen)) for other in others]
            if not any(change.lost(level).any() for change in changes):
                gains[number] = changes[0].macro
        return max(gains, key=lambda number: gains[number]) if gains else None


def choose(
    given: TrialResult,
    ordinary: TrialResult,
    tried: Sequence[Tried],
    trials: Iterable[TrialResult],
    level: float,
    improvable: bool,
    joined: Tried | None = None,
) -> tuple[ParetoResult, Tried | None]:
    """Do no harm: a reweighted model has to beat the best ordinary one, and to harm no category, beyond chance.

    It beats it where the mean over the categories rises beyond chance, or some category does and the mean does not
    fall.

    The ordinary model takes the place of the given one only if it is better in the mean and worse on no category
    beyond chance. Levels for gains are divided by the number of finalists and by the looks that chose them, but not by
    the trials of one epoch that ranked them: they are other models, and in a simulation of ten candidates they biased
    the gain by less than a tenth of a point. Where the verdict is *yes*, less is enough, see :data:`CONFIRMING`. Harm
    is looked for in both fits of a finalist together, and in the one that is handed back on its own samples.

    Where validation data are trained on as well, so are they in all finalists, and those have to beat the fits on them
    without weights, which in turn need no more than not to fall in the mean and to do no harm. For the weights it is
    then enough that the mean is higher where the verdict is *yes*, or that it is not lower and the weakest category
    is higher by more than its standard error: all of these models do no harm. The best epoch of a fit with half of the
    validation data is chosen on the half that measures it, that of an ordinary fit on both: simulated fits without any
    difference, up and down over twenty epochs and measured on 2,000 samples, looked better for it by half a standard
    error (0.25 points). The tests kept their levels, but the gain that is told is too high by so much.

    Of several that are accepted and do not differ in the mean by more than its error, that with the highest lowest
    category is taken.

    Args:
        given: the model to start with.
        ordinary: an ordinary fit of the same budget.
        tried: reweighted fits of the same budget.
        trials: all trials, to report.
        level: of the tests.
        improvable: whether the verdict is *yes*.
        joined: fits without weights on training data and either half of the validation data.

    Returns:
        The result, and the fits whose model it hands back; None for an ordinary model.
    """
    step = Change(given.outcome, ordinary.outcome)
    incumbent = ordinary if step.macro > 0 and not step.lost(level).any() else given
    ordinaries = (incumbent, given)
    serves = joined is not None and joined.against(incumbent).macro >= 0 and _harmless(joined, ordinaries, level)
    more = joined if serves else None
    better = [one for one in tried if _gains(one, incumbent, more, level, len(tried), improvable)]
    fit = [one for one in better if _harmless(one, ordinaries, level)]
    if fit:
        chosen = _preferred(fit, incumbent)
        return _accept(chosen, given, incumbent, more, level, trials), chosen
    refused = max(tried, key=lambda one: one.against(incumbent).macro, default=None)
    if more is not None:
        result = _accept(more, given, incumbent, None, level, trials)
        return (result if refused is None else _refusing(result, refused.beyond(more))), more
    best = refused or joined
    if best is None:
        reason, change = "no weights promised a gain", Change(incumbent.outcome, incumbent.outcome)
    else:
        change = best.against(incumbent)
        reason = f"{_measured(change)}, {_objection(best, ordinaries, level)}"
    result = _result(given, incumbent, None, change, f"{reason}. The best ordinary model is handed back.", trials)
    return (result if refused is None else _refusing(result, refused.against(incumbent))), None


def _harmless(one: Tried, ordinaries: Sequence[TrialResult], level: float) -> bool:
    """Whether no category falls, in both fits together and in one of them."""
    return one.harmless_fit(ordinaries, level) is not None and not one.harmed(ordinaries, level).any()


def _gains(
    one: Tried, incumbent: TrialResult, joined: Tried | None, level: float, count: int, improvable: bool
) -> bool:
    """Whether weights bring more than what is to be had without them, for one of ``count`` finalists."""
    looks = one.finalist.looks * count
    if joined is None:
        change = one.against(incumbent)
        return change.rises(level, looks) or (improvable and change.p_gain * looks <= CONFIRMING)
    change, weakest = one.beyond(joined), int(np.nanargmin(incumbent.outcome.accuracy))
    helps_the_weakest = change.macro >= 0 and change.p_rise[weakest] * looks <= CONFIRMING
    return change.rises(level, looks) or helps_the_weakest or (improvable and change.macro > 0)


def _preferred(fit: Sequence[Tried], incumbent: TrialResult) -> Tried:
    """The best in the mean, or of those within an error of it the one whose lowest category is highest."""
    best = max(fit, key=lambda one: one.against(incumbent).macro)
    level_with = [one for one in fit if one is best or _level_with(best, one)]
    return max(level_with, key=lambda one: float(np.nanmin(one.outcome.accuracy)))


def _level_with(best: Tried, one: Tried) -> bool:
    if not np.array_equal(best.measured_on, one.measured_on):
        return False
    change = Change(best.outcome, one.outcome)
    return change.macro >= -change.macro_error


def _accept(
    one: Tried,
    given: TrialResult,
    incumbent: TrialResult,
    joined: Tried | None,
    level: float,
    trials: Iterable[TrialResult],
) -> ParetoResult:
    change, number = one.against(incumbent), one.harmless_fit((incumbent, given), level)
    assert number is not None
    way = "with half of the validation data and no weights " if one.finalist.fits[number][0] is None else ""
    reason = f"{way}{_measured(change)}{_rising(change, level)}; no category falls beyond chance."
    if joined is not None:
        more = one.beyond(joined)
        reason += f" Of that the weights bring {_points(more)}, the validation data the rest."
    return _result(given, incumbent, (one, number), change, reason, trials)


def _refusing(result: ParetoResult, change: Change) -> ParetoResult:
    """The result with what another model than that handed back would have come to."""
    return replace(result, refused=result.after + change.accuracy)


def _objection(best: Tried, ordinaries: Sequence[TrialResult], level: float) -> str:
    lost = [name for name, yes in zip(ordinaries[0].outcome.names, best.harmed(ordinaries, level), strict=True) if yes]
    if lost:
        return f"but {listed(lost, 5)} would fall beyond chance"
    if best.harmless_fit(ordinaries, level) is None:
        return "but in each of the models some category would fall beyond chance"
    gains = best.against(ordinaries[0]).macro > 0
    return "which is too little to be sure of" if gains else "which is no gain"


def _rising(change: Change, level: float) -> str:
    names = [name for name, yes in zip(change.after.names, change.risen(level), strict=True) if yes]
    verb = "rises" if len(names) == 1 else "rise"
    return f"; {listed(names, 5)} {verb} beyond chance" if names else ""


def _measured(change: Change) -> str:
    return f"the mean accuracy changes by {_points(change)}"


def _points(change: Change) -> str:
    return f"{100 * change.macro:+.1f} ± {100 * change.macro_error:.1f} points"


def _result(
    given: TrialResult,
    incumbent: TrialResult,
    accepted: tuple[Tried, int] | None,
    compared: Change,
    reason: str,
    trials: Iterable[TrialResult],
) -> ParetoResult:
    change, weights, model = Change(given.outcome, incumbent.outcome), None, incumbent
    if accepted is not None:
        one, number = accepted
        change, model = one.against(given), one.results[number]
        weights = one.finalist.fits[number][0]
    summaries = tuple(summary_of(result) for result in trials)
    return ParetoResult(
        category_names=given.outcome.names,
        before=change.before.accuracy,
        after=change.after.accuracy,
        support=change.before.support,
        p_values=change.p_loss,
        refused=np.full(len(given.outcome.names), np.nan),
        gain=compared.macro,
        gain_error=compared.macro_error,
        accepted=weights is not None,
        reason=reason,
        weights=weights,
        ckpt_path=str(model.checkpoint),
        best_epoch=model.best_epoch,
        epochs_spent=sum(trial.epochs for trial in summaries),
        trials=summaries,
    )


def epochs_for(results: Sequence[TrialResult]) -> int:
    """For how many epochs to fit once more where nothing is left to choose by: after which these were best together.

    A single fit's best epoch is a matter of chance, and in the middle of a learning rate schedule it costs accuracy.
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
        result: says what was measured.
        one: the fits that were chosen.
        epochs: of the last fit.
        last: that with all validation data, and weights made from all of them.
        trials: all trials, to report.
    """
    summaries = [summary_of(trial) for trial in trials if trial is not last]
    summaries.append(TrialSummary(last.name, last.epochs, np.nan, np.nan))
    return replace(
        result,
        reason=f"{result.reason} The model handed back was then fitted with all of the validation data: nothing is "
        "left that could measure it, and these figures are those of fits with one half, each measured on the other.",
        weights=one.finalist.whole,
        best_epoch=epochs,
        ckpt_path=str(last.checkpoint),
        epochs_spent=sum(trial.epochs for trial in summaries),
        trials=tuple(summaries),
    )
