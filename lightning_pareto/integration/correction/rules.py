"""When an epoch is taken again, and when the second take is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_pareto.arguments import checked_count, checked_number
from lightning_pareto.integration.correction.record import Correction
from lightning_pareto.integration.correction.tally import Tally, change


@dataclass(frozen=True)
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
            what = f"{name} must be an accuracy in [0, 1)"
            if not 0 <= checked_number(getattr(self, name), what) < 1:
                raise ValueError(f"{what}, found {getattr(self, name)}")
        if not 0 < checked_number(self.level, "level must be in (0, 1)") < 1:
            raise ValueError(f"level must be in (0, 1), found {self.level}")
        for name in ("warmup_epochs", "max_corrections"):
            checked_count(getattr(self, name), f"{name} must be a whole number ≥ 0")

    def allow(self, epoch: int, corrections: int) -> bool:
        """Whether an epoch may be taken again after so many corrections."""
        return epoch >= self.warmup_epochs and corrections < self.max_corrections

    def fallen(self, before: Tally, ordinary: Tally, names: Sequence[str] | None) -> list[int]:
        """Numbers of the categories that fell."""
        found = change(before, ordinary, _count(names, before, ordinary)).fallen(self.threshold, self.level)
        return [int(k) for k in np.flatnonzero(found)]

    def better(self, ordinary: Tally, again: Tally, targets: list[int], names: Sequence[str] | None) -> bool:
        """Whether every target rose and no other category fell beyond chance."""
        found = change(ordinary, again, _count(names, ordinary, again))
        fallen = found.fallen(0.0, self.level)
        rises = found.after[targets] - found.before[targets]
        return bool((rises > self.least_gain).all() and not fallen.any())


def described(
    epoch: int,
    targets: list[int],
    takes: tuple[Tally, Tally, Tally | None],
    accepted: bool,
    category_names: Sequence[str] | None,
) -> Correction:
    """What was done, in accuracies before, after the ordinary take and after the second one."""
    count = _count(category_names, *(tally for tally in takes if tally is not None))
    names = tuple(map(str, category_names or range(count)))
    before, ordinary, again = (() if tally is None else tuple(tally.accuracy(count).tolist()) for tally in takes)
    return Correction(epoch, tuple(names[k] for k in targets), names, before, ordinary, again, accepted)


def _count(names: Sequence[str] | None, *tallies: Tally) -> int:
    """Number of categories: those named, or as many as were seen."""
    if names is not None:
        return len(names)
    return max(int(tally.category.max()) + 1 for tally in tallies)
