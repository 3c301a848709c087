"""Compares ways of training class by class over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, product
from typing import Any

import numpy as np
from scipy import stats

from lightning_pareto.arguments import checked_names
from lightning_pareto.display.notebook import data_frame, html_table
from lightning_pareto.display.terminal import listed, printable, printable_line, text_table
from lightning_pareto.pareto.admissible import Float

LEVEL = 0.05

ROUNDING = 1e-6
"""Tolerance outside [0, 1] for accuracies that are themselves means."""


@dataclass(frozen=True, eq=False)
class ClasswiseComparison:
    """Accuracy per class of several arms over the same seeds, and paired tests against one of them.

    The tests are two-sided paired t-tests over seeds, one per class, not corrected for the number of classes. With ten
    classes and level 0.05, expect one class in every two comparisons to look changed by chance. One seed allows no
    test, and three seeds only a weak one.

    Args:
        accuracy: the accuracies of each arm, (S, K) in [0, 1]. Row s has the same seed in every arm. A class without
            samples is NaN in all arms and seeds.
        class_names: K names.
        baseline: the arm that the others are compared with.

    Raises:
        ValueError: if the shapes differ, the baseline is not an arm, names repeat, or an accuracy is not in [0, 1].

    Example:
        >>> comparison = ClasswiseComparison(
        ...     {"ordinary": [[0.5, 0.9], [0.6, 0.9], [0.5, 0.8]], "Pareto": [[0.7, 0.9], [0.8, 0.9], [0.7, 0.8]]},
        ...     ["cat", "dog"],
        ...     baseline="ordinary",
        ... )
        >>> comparison.change("Pareto").mean(axis=0).round(3)
        array([0.2, 0. ])
        >>> comparison.lost("Pareto")
        ()
    """

    accuracy: Mapping[str, Float]
    class_names: Sequence[str]
    baseline: str

    def __post_init__(self) -> None:
        arms = {name: np.asarray(values, dtype=np.float64) for name, values in self.accuracy.items()}
        if self.baseline not in arms:
            raise ValueError(f"baseline must be one of the arms {list(arms)}, found {self.baseline!r}")
        expected = (len(arms[self.baseline]), len(self.class_names))
        for name, values in arms.items():
            if values.shape != expected:
                raise ValueError(f"arm {name!r} must have shape {expected} (seeds, classes), found {values.shape}")
        absent = np.isnan(np.concatenate(list(arms.values()))).all(axis=0)
        for name, values in arms.items():
            outside = values[~((values >= -ROUNDING) & (values <= 1 + ROUNDING) | absent)]
            if len(outside):
                raise ValueError(
                    f"accuracies must be in [0, 1], found {outside[0]:g} in arm {name!r}. Divide percentages by 100, "
                    "leave out seeds without a result, and set a class without samples to NaN in all arms and seeds"
                )
        object.__setattr__(self, "accuracy", arms)
        object.__setattr__(self, "class_names", checked_names(self.class_names))

    def change(self, arm: str) -> Float:
        """Accuracy minus the baseline's accuracy with the same seed, (S, K)."""
        return self.accuracy[arm] - self.accuracy[self.baseline]

    def p_values(self, arm: str) -> Float:
        """Two-sided paired p-values of the classes and, last, of the mean over classes, (K + 1,). NaN for one seed."""
        change = _with_mean(self.change(arm))
        error = standard_error(change)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(change.any(axis=0), change.mean(axis=0) / error, 0.0)
        p_values: Float = 2 * stats.t.sf(np.abs(t), max(len(change) - 1, 1))
        return np.where(np.isnan(error), np.nan, p_values)

    def lost(self, arm: str, level: float = LEVEL) -> tuple[str, ...]:
        """Classes whose accuracy is significantly lower than the baseline's."""
        return self._significant(arm, level, sign=-1)

    def gained(self, arm: str, level: float = LEVEL) -> tuple[str, ...]:
        """Classes whose accuracy is significantly higher than the baseline's."""
        return self._significant(arm, level, sign=1)

    def _significant(self, arm: str, level: float, sign: int) -> tuple[str, ...]:
        found = (self.p_values(arm)[:-1] <= level) & (sign * self.change(arm).mean(axis=0) > 0)
        return tuple(compress(self.class_names, found))

    @property
    def _seeds(self) -> int:
        return len(self.accuracy[self.baseline])

    @property
    def _others(self) -> list[str]:
        return [arm for arm in self.accuracy if arm != self.baseline]

    def __str__(self) -> str:
        seeds = self._seeds
        lines = [f"Accuracy in %, mean ± standard error over {seeds} seeds:" if seeds > 1 else "Accuracy in %, 1 seed:"]
        lines += self._table({arm: _cells(values) for arm, values in self.accuracy.items()})
        lines += ["", f"Change against {self.baseline!r} with the same seed, in points (* p ≤ {LEVEL}):"]
        lines += [*self._table({arm: self._change_cells(arm) for arm in self._others}), ""]
        for arm in self._others:
            lost, p_value, name = self.lost(arm), self.p_values(arm)[-1], printable_line(arm)
            losses = f"significant losses: {listed(lost, len(lost))}" if lost else "no significant loss of any class"
            tested = f"{name}: {losses}. Mean over classes: p = {p_value:.3f}."
            lines.append(tested if seeds > 1 else f"{name}: one seed allows no test. Fit with more seeds.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        columns = {f"{arm}, %": _cells(values) for arm, values in self.accuracy.items()}
        columns |= {f"change by {arm}, points": self._change_cells(arm) for arm in self._others}
        for head, cells in columns.items():
            columns[head] = ["–" if cell.startswith(("nan", "+nan")) else cell for cell in (cells[-1], *cells[:-1])]
        lost = [f"{arm}: significant losses: {', '.join(self.lost(arm))}" for arm in self._others if self.lost(arm)]
        note = f"Changes are against {self.baseline} with the same seed (* p ≤ {LEVEL})."
        notes = [f"{note} Number of seeds: {self._seeds}.", *lost]
        columns = {"class": ["mean", *self.class_names], **columns}
        return html_table("Accuracy, mean ± standard error over seeds", columns, notes)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each arm, seed and class. An ImportError says how to install pandas."""
        arm, seed, name = zip(*product(self.accuracy, range(self._seeds), self.class_names), strict=True)
        accuracy = np.concatenate([values.ravel() for values in self.accuracy.values()])
        columns = {"arm": arm, "seed": seed, "class": name, "accuracy": accuracy}
        return data_frame(columns, range(len(accuracy)), "row")

    def plot(self, ax: Any = None) -> Any:
        """Draw every arm and class, see :func:`lightning_pareto.plot_comparison`."""
        from lightning_pareto.report.figures import plot_comparison

        return plot_comparison(self, ax)

    def _table(self, cells: Mapping[str, Sequence[str]]) -> list[str]:
        names = {"": [*map(printable, self.class_names), "mean"]}
        return text_table(names | {printable_line(arm): column for arm, column in cells.items()})

    def _change_cells(self, arm: str) -> list[str]:
        stars = ["*" if p <= LEVEL else " " for p in self.p_values(arm)]
        return [cell + star for cell, star in zip(_cells(self.change(arm), "+"), stars, strict=True)]


def standard_error(values: Float) -> Float:
    """Standard error of the mean over the first axis. NaN for one value."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    error: Float = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return error


def _with_mean(values: Float) -> Float:
    return np.column_stack([values, np.nanmean(values, axis=1)])


def _cells(values: Float, sign: str = "") -> list[str]:
    values = _with_mean(values)
    means, errors = values.mean(axis=0), standard_error(values)
    return [
        f"{100 * mean:{sign}.2f}" + (f" ± {100 * error:.2f}" if len(values) > 1 else "")
        for mean, error in zip(means, errors, strict=True)
    ]
