"""The user's demands on each category: to gain, or to stay above a floor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.terminal import listed, printable
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.admissible import Float

Targets = Sequence[int | str] | str | int | None
"""Categories by name or index; None for all."""

Limits = float | Sequence[float] | Mapping[str, float] | npt.NDArray[np.floating] | None
"""One number for all categories, one per category, or a dict by name. None and missing names mean the default."""


@dataclass(frozen=True, eq=False)
class Demand:
    """Which categories must gain, and the floors of the others.

    Attributes:
        targets: categories that must gain, (K,) bool, at least one.
        floors: least relative gain of the other categories, (K,). The entries of targets are ignored.
    """

    targets: npt.NDArray[np.bool_]
    floors: Float

    @classmethod
    def of_all(cls, categories: int) -> "Demand":
        """Every category must gain."""
        return cls(np.ones(categories, dtype=bool), np.zeros(categories))

    def over(self, present: npt.NDArray[np.bool_]) -> "Demand":
        """The same demand, restricted to the present categories."""
        return Demand(self.targets[present], self.floors[present])

    def bar(self, margin: float) -> Float:
        """Value that each held-out gain must exceed, (K,): 0 for targets, ``margin`` below the floor for others."""
        return np.where(self.targets, 0.0, self.floors - margin)


def chosen_categories(names: Sequence[str], targets: Targets) -> npt.NDArray[np.bool_]:
    """Resolve ``targets`` to a mask over the categories, (K,).

    Raises:
        ValueError: for an unknown name, an index out of range, or no target at all.
    """
    chosen = np.zeros(len(names), dtype=bool)
    if isinstance(targets, (str, int, float, np.number)):
        targets = [targets]  # non-integer numbers are rejected below
    for target in range(len(names)) if targets is None else targets:
        index = names.index(target) if target in names else target
        if not isinstance(index, (int, np.integer)) or isinstance(index, bool) or not 0 <= index < len(names):
            raise ValueError(f"unknown target {target!r}, expected one of {list(names)} or its index")
        chosen[index] = True
    if not chosen.any() and len(names):
        raise ValueError("targets is empty: name some categories, or pass None for all")
    return chosen


def per_category(value: Limits, names: Sequence[str], default: float, what: str = "thresholds") -> Float:
    """Expand ``value`` to one limit per category, (K,).

    Raises:
        ValueError: if the length is wrong, a name is unknown, or a limit is not a finite number.
    """
    k = len(names)
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in names]
        if unknown:
            raise ValueError(f"{what} of unknown categories {unknown}, expected names from {list(names)}")
        value = [value.get(name, default) for name in names]
    try:
        limits = np.asarray(default if value is None else value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be one number, {k} numbers or a dict by name, found {value!r:.80}") from None
    if limits.ndim and limits.shape != (k,):
        raise ValueError(f"{what} must be one number or {k}, one per category, found shape {limits.shape}")
    if not np.isfinite(limits).all():
        name = printable(names[int(np.argmax(~np.isfinite(limits)))]) if limits.ndim else "all categories"
        raise ValueError(f"{what} must be finite, found {limits[~np.isfinite(limits)][0]} for {name}")
    return np.full(k, limits)


def read_demand(influence: InfluenceMatrix, targets: Targets, floors: Limits) -> Demand:
    """Turn the options of :func:`lightning_pareto.check_pareto` into a :class:`Demand`.

    Raises:
        ValueError: for unknown targets, targets without validation samples, floors without targets, or floors of the
            wrong shape.
    """
    check_floors(floors, targets)
    chosen = chosen_categories(influence.category_names, targets)
    demand = Demand(chosen, per_category(floors, influence.category_names, 0.0, "floors"))
    if not (chosen & influence.present).any():
        raise ValueError(f"{'no category' if targets is None else 'none of the targets'} has validation samples")
    absent = [influence.category_names[k] for k in np.flatnonzero(chosen & ~influence.present)]
    if targets is not None and absent:
        raise ValueError(f"targets must have validation samples, found none of {listed(absent)}. Drop these targets")
    return demand


def check_floors(floors: Limits, targets: Targets) -> None:
    """Raise a ValueError for floors without targets."""
    if targets is None and floors is not None:
        raise ValueError(
            "floors apply to categories that need not gain, but without targets every category must gain. Name the "
            "categories that must gain with targets=[...]"
        )
