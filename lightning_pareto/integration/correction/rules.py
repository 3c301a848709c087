"""When an epoch is rerun, and when the rerun is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_pareto.arguments import checked_count, checked_number
from lightning_pareto.evaluation.change import fallen
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.integration.correction.record import Correction


@dataclass(frozen=True, kw_only=True)
class Rules:
    """See :class:`CourseCorrection` for the fields.

    Raises:
        ValueError: for values out of range.
    """

    threshold: float
    level: float
    least_gain: float
    warmup_epochs: int
    max_corrections: int

    def __post_init__(self) -> None:
        for name in ("threshold", "least_gain"):
            checked_number(getattr(self, name), f"{name} must be an accuracy in [0, 1)", lambda x: 0 <= x < 1)
        checked_number(self.level, "level must be in (0, 1)", lambda x: 0 < x < 1)
        for name in ("warmup_epochs", "max_corrections"):
            checked_count(getattr(self, name), f"{name} must be a whole number ≥ 0")

    def allow(self, epoch: int, corrections: int) -> bool:
        """Whether an epoch may be rerun after so many corrections."""
        return epoch >= self.warmup_epochs and corrections < self.max_corrections

    def fallen(self, before: Outcome, ordinary: Outcome) -> list[int]:
        """Numbers of the categories that fell in an epoch."""
        before, ordinary = _with_same_names(before, ordinary)
        found = fallen(before, ordinary, level=self.level, threshold=self.threshold)
        return [int(k) for k in np.flatnonzero(found)]

    def better(self, ordinary: Outcome, rerun: Outcome, targets: Sequence[int]) -> bool:
        """Whether the rerun raises every target and lets no category fall beyond chance."""
        ordinary, rerun = _with_same_names(ordinary, rerun)
        rises = (rerun.accuracy - ordinary.accuracy)[list(targets)]
        return bool((rises > self.least_gain).all() and not fallen(ordinary, rerun, level=self.level).any())


def correction_of(
    epoch: int,
    targets: Sequence[int],
    *,
    before: Outcome,
    ordinary: Outcome,
    rerun: Outcome | None,
    accepted: bool,
) -> Correction:
    """The record of a correction, in accuracies.

    Args:
        epoch: number of the epoch.
        targets: the categories that fell.
        before: at the end of the epoch before.
        ordinary: at the end of the ordinary epoch.
        rerun: at the end of the rerun; None if it did not run to its end.
        accepted: whether the rerun was kept.
    """
    outcomes = _with_same_names(*(outcome for outcome in (before, ordinary, rerun) if outcome is not None))
    names = outcomes[0].category_names
    accuracies = [tuple(outcome.accuracy.tolist()) for outcome in outcomes]
    return Correction(
        epoch=epoch,
        fallen=tuple(names[k] for k in targets),
        category_names=names,
        before=accuracies[0],
        ordinary=accuracies[1],
        again=() if rerun is None else accuracies[2],
        accepted=accepted,
    )


def _with_same_names(*outcomes: Outcome) -> list[Outcome]:
    """The outcomes over the same categories. Categories without given names are numbered as far as they were seen."""
    names = max((outcome.category_names for outcome in outcomes), key=len)
    return [replace(outcome, category_names=names) for outcome in outcomes]
