"""Which model a search hands back: one that does no harm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lightning_pareto.integration.tuner.result import ParetoResult, TrialSummary
from lightning_pareto.integration.tuner.search import Finalist
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.reweighting.outcomes import Change, Outcome, pooled
from lightning_pareto.terminal import listed

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
) -> ParetoResult:
    """Do no harm: a reweighted model has to beat the best ordinary one, and to harm no category, beyond chance.

    It beats it where the mean over the categories rises beyond chance, or some category does and the mean does not
    fall.

    The ordinary model takes the place of the given one only if it is better in the mean and worse on no category
    beyond chance. Levels for gains are divided by the number of finalists and by the looks that chose them, but not by
    the trials of one epoch that ranked them: they are other models, and in a simulation of ten candidates they biased
    the gain by less than a tenth of a point. Where the verdict is *yes*, less is enough, see :data:`CONFIRMING`. Harm
    is looked for in both fits of a finalist together, and in the one that is handed back on its own samples.

    Args:
        given: the model to start with.
        ordinary: an ordinary fit of the same budget.
        tried: reweighted fits of the same budget.
        trials: all trials, to report.
        level: of the tests.
        improvable: whether the verdict is *yes*.
    """
    step = Change(given.outcome, ordinary.outcome)
    incumbent = ordinary if step.macro > 0 and not step.lost(level).any() else given
    if not tried:
        reason = "no weights promised a gain, so the best ordinary model is handed back."
        return _result(given, incumbent, None, Change(incumbent.outcome, incumbent.outcome), reason, trials)
    ranked = sorted(tried, key=lambda one: -one.against(incumbent).macro)
    for one in ranked:
        change, ordinaries = one.against(incumbent), (incumbent, given)
        looks = one.finalist.looks * len(tried)
        enough = change.rises(level, looks) or (improvable and change.p_gain * looks <= CONFIRMING)
        number = one.harmless_fit(ordinaries, level)
        if enough and number is not None and not one.harmed(ordinaries, level).any():
            reason = f"{_measured(change)}{_rising(change, level)}; no category falls beyond chance."
            return _result(given, incumbent, (one, number), change, reason, trials)
    best = ranked[0]
    reason = f"{_measured(best.against(incumbent))}, {_objection(best, (incumbent, given), level)}."
    reason += " The best ordinary model is handed back."
    return _result(given, incumbent, None, best.against(incumbent), reason, trials)


def _objection(best: Tried, ordinaries: Sequence[TrialResult], level: float) -> str:
    lost = [name for name, yes in zip(ordinaries[0].outcome.names, best.harmed(ordinaries, level), strict=True) if yes]
    if lost:
        return f"but {listed(lost, 5)} would fall beyond chance"
    if best.harmless_fit(ordinaries, level) is None:
        return "but in each of the models some category would fall beyond chance"
    return "which is too little to be sure of"


def _rising(change: Change, level: float) -> str:
    names = [name for name, yes in zip(change.after.names, change.risen(level), strict=True) if yes]
    return f"; {listed(names, 5)} rise beyond chance" if names else ""


def _measured(change: Change) -> str:
    return f"the mean accuracy changes by {100 * change.macro:+.1f} ± {100 * change.macro_error:.1f} points"


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
    summaries = tuple(TrialSummary.of(result) for result in trials)
    return ParetoResult(
        class_names=given.outcome.names,
        before=change.before.accuracy,
        after=change.after.accuracy,
        support=change.before.support,
        p_values=change.p_loss,
        gain=compared.macro,
        gain_error=compared.macro_error,
        accepted=accepted is not None,
        reason=reason,
        weights=weights,
        ckpt_path=str(model.checkpoint),
        best_epoch=model.best_epoch,
        epochs_spent=sum(trial.epochs for trial in summaries),
        trials=summaries,
    )


def with_validation(result: ParetoResult, last: TrialResult, trials: Iterable[TrialResult]) -> ParetoResult:
    """The result with the model of a last fit that has seen the validation data."""
    summaries = tuple(TrialSummary.of(trial) for trial in trials)
    return replace(
        result,
        reason=f"{result.reason} The model handed back was then fitted on training and validation data together: these "
        "figures are those of the model before, and nothing is left that could measure it without bias.",
        ckpt_path=str(last.checkpoint),
        epochs_spent=sum(trial.epochs for trial in summaries),
        trials=summaries,
    )
