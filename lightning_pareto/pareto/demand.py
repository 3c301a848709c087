"""What is asked of each category: to gain, or to hold a floor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.terminal import listed, printable
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.admissible import Float

Targets = Sequence[int | str] | str | int | None
"""Categories by name or number; None for all."""

Limits = float | Sequence[float] | Mapping[str, float] | npt.NDArray[np.floating] | None
"""One number for all categories, one for each, or by name those of some; a default for None and what is not named."""


@dataclass(frozen=True, eq=False)
class Demand:
    """Which categories are to gain, and what the others hold.

    Attributes:
        targets: the categories that are to gain, (K,) bool, at least one.
        floors: least relative gain of the others, (K,); not read at the targets.
    """

    targets: npt.NDArray[np.bool_]
    floors: Float

    @classmethod
    def of_all(cls, categories: int) -> "Demand":
        """Every category is to gain."""
        return cls(np.ones(categories, dtype=bool), np.zeros(categories))

    def over(self, present: npt.NDArray[np.bool_]) -> "Demand":
        """The same of some of the categories."""
        return Demand(self.targets[present], self.floors[present])

    def bar(self, margin: float) -> Float:
        """What a held-out gain has to exceed, (K,): 0 for a target, ``margin`` below its floor for another."""
        return np.where(self.targets, 0.0, self.floors - margin)


def chosen_categories(names: Sequence[str], targets: Targets) -> npt.NDArray[np.bool_]:
    """Which of the categories of these names are meant, (K,).

    Raises:
        ValueError: for an unknown name or a number out of range.
    """
    chosen = np.zeros(len(names), dtype=bool)
    if isinstance(targets, (str, int, float, np.number)):
        targets = [targets]  # a number that is not whole is refused below
    for target in range(len(names)) if targets is None else targets:
        index = names.index(target) if target in names else target
        if not isinstance(index, (int, np.integer)) or isinstance(index, bool) or not 0 <= index < len(names):
            raise ValueError(f"unknown target {target!r}; the categories are {list(names)}")
        chosen[index] = True
    return chosen


def per_category(value: Limits, names: Sequence[str], default: float, what: str = "thresholds") -> Float:
    """One limit for each of the K categories of these names, (K,).

    Raises:
        ValueError: if there are not as many as categories, a name is unknown, or one is no finite number.
    """
    k = len(names)
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in names]
        if unknown:
            raise ValueError(f"{what} of unknown categories {unknown}; the categories are {list(names)}")
        value = [value.get(name, default) for name in names]
    try:
        limits = np.asarray(default if value is None else value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be numbers: one, {k}, or a dict by name, found {value!r:.80}") from None
    if limits.ndim and limits.shape != (k,):
        raise ValueError(f"{what} must be one number or {k}, one per category, found {limits.shape}")
    if not np.isfinite(limits).all():
        name = printable(names[int(np.argmax(~np.isfinite(limits)))]) if limits.ndim else "all categories"
        raise ValueError(f"{what} must be finite, that of {name} is {limits[~np.isfinite(limits)][0]}")
    return np.full(k, limits)


def read_demand(influence: InfluenceMatrix, targets: Targets, floors: Limits) -> Demand:
    """Read the two options of :func:`lightning_pareto.check_pareto`.

    Raises:
        ValueError: for unknown targets, floors of the wrong shape, targets without validation samples, or floors
            without targets.
    """
    check_floors(floors, targets)
    chosen = chosen_categories(influence.category_names, targets)
    demand = Demand(chosen, per_category(floors, influence.category_names, 0.0, "floors"))
    if not (chosen & influence.present).any():
        raise ValueError("none of the targets has validation samples")
    absent = [name for name, yes in zip(influence.category_names, chosen & ~influence.present, strict=True) if yes]
    if targets is not None and absent:
        raise ValueError(f"no validation samples of {listed(absent)}: nothing can be said about these targets")
    return demand


def check_floors(floors: Limits, targets: Targets) -> None:
    """Raise a ValueError for floors without targets."""
    if targets is None and floors is not None:
        raise ValueError(
            "floors are for the categories that are not to gain: say which are, targets=[...]. Without targets every "
            "category has to gain"
        )
