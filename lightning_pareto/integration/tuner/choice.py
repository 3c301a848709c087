"""Which model a search hands back: one that does no harm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_pareto.integration.tuner.result import ParetoResult, TrialSummary
from lightning_pareto.integration.tuner.search import Finalist
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.reweighting.outcomes import Change, Outcome, pooled

CONFIRMING = 0.16
"""Level of the test of the mean where the verdict is *yes*: one standard error.

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

    def best_against(self, other: TrialResult) -> int:
        """Number of the fit that does best against an ordinary model on its own samples."""
        changes = [
            result.outcome.on(unseen).macro - other.outcome.on(unseen).macro
            for result, (_, unseen) in zip(self.results, self.finalist.fits, strict=True)
        ]
        return int(np.argmax(changes))


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
    beyond chance. The level is divided by the number of reweighted models and by the looks that chose them. Where the
    verdict is *yes*, a gain of one standard error is enough, see :data:`CONFIRMING`.

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
        change = one.against(incumbent)
        looks = one.finalist.looks
        enough = change.rises(level, looks * len(tried)) or (improvable and change.p_gain * looks <= CONFIRMING)
        harmed = change.lost(level) | one.against(given).lost(level)
        if enough and not harmed.any():
            return _result(
                given,
                incumbent,
                one,
                change,
                f"{_measured(change)}{_rising(change, level)}; no category falls beyond chance.",
                trials,
            )
    return _result(given, incumbent, None, ranked[0].against(incumbent), _refusal(ranked[0], incumbent, level), trials)


def _refusal(best: Tried, incumbent: TrialResult, level: float) -> str:
    change = best.against(incumbent)
    lost = [name for name, yes in zip(change.after.names, change.lost(level), strict=True) if yes]
    why = f"but {', '.join(lost[:5])} would fall beyond chance" if lost else "which is too little to be sure of"
    return f"{_measured(change)}, {why}. The best ordinary model is handed back."


def _rising(change: Change, level: float) -> str:
    names = [name for name, yes in zip(change.after.names, change.risen(level), strict=True) if yes]
    return f"; {', '.join(names[:5])}{' and others' if len(names) > 5 else ''} rise beyond chance" if names else ""


def _measured(change: Change) -> str:
    return f"the mean accuracy changes by {100 * change.macro:+.1f} ± {100 * change.macro_error:.1f} points"


def _result(
    given: TrialResult,
    incumbent: TrialResult,
    accepted: Tried | None,
    compared: Change,
    reason: str,
    trials: Iterable[TrialResult],
) -> ParetoResult:
    change, weights, model = Change(given.outcome, incumbent.outcome), None, incumbent
    if accepted is not None:
        number = accepted.best_against(incumbent)
        change, model = accepted.against(given), accepted.results[number]
        weights = accepted.finalist.fits[number][0]
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
