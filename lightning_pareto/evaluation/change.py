"""How a model changed, category by category, and whether that is more than chance."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from lightning_pareto.arguments import checked_number
from lightning_pareto.display.columns import chosen_cells, values_of
from lightning_pareto.display.notebook import data_frame, html_table
from lightning_pareto.display.terminal import listed, printable
from lightning_pareto.evaluation.change_wording import COLUMNS, headline, text
from lightning_pareto.evaluation.outcome import OTHER_SAMPLES, Outcome
from lightning_pareto.evaluation.paired_tests import (
    COVERAGE,
    holm,
    margin_test,
    score_interval,
    sign_test,
    unpaired_test,
)
from lightning_pareto.evaluation.tosses import Counts, lowest_interval, lowest_p_value, mean_p_values
from lightning_pareto.pareto.admissible import Float

Answer = Literal["better", "harmful", "trade-off", "no difference"]

Tolerance = float | Sequence[float] | Float | Mapping[str, float]
"""Accuracy that categories may lose, in [0, 1): one number, (K,), or some by name."""


def fallen(before: Outcome, after: Outcome, *, level: float, threshold: float = 0.0) -> npt.NDArray[np.bool_]:
    """Which categories fell by more than ``threshold`` and beyond chance, (K,).

    If both outcomes have their samples in the same order, they are paired (:func:`sign_test`). Otherwise, as with a
    shuffled validation loader, only the counts are compared (:func:`unpaired_test`).

    Args:
        before: the earlier model.
        after: the later model.
        level: family-wise level over the categories that have samples in both (Holm).
        threshold: least drop of the accuracy, in [0, 1).
    """
    if np.array_equal(before.category, after.category):
        lost, won = before.correct & ~after.correct, after.correct & ~before.correct
        p_values = sign_test(before.count(lost), before.count(won))
    else:
        p_values = unpaired_test(before.hits, before.support, after.hits, after.support)
    tested = (before.support > 0) & (after.support > 0)
    found = np.zeros(len(tested), dtype=bool)
    found[tested] = holm(p_values[tested], level)
    return found & (before.accuracy - after.accuracy > threshold)


def tolerance_of(given: Tolerance, names: Sequence[str] | None = None) -> Float:
    """Accuracy that each of K named categories may lose, (K,). A ValueError says how to mend what is given.

    As long as the names are unknown, only the numbers are checked.
    """
    values = given
    if isinstance(given, Mapping):
        by_name = {str(name): value for name, value in given.items()}
        unknown = [name for name in by_name if names is not None and name not in names]
        if unknown:
            raise ValueError(f"tolerance names {listed(unknown)}, but the categories are {listed(list(names or ()))}")
        values = [by_name.get(name, 0.0) for name in (by_name if names is None else names)]
    try:
        tolerance = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):  # words, or lists of several lengths
        tolerance = np.array(np.nan)
    fits = tolerance.ndim < 2 if names is None else tolerance.shape in ((), (len(names),))
    if not fits or not ((tolerance >= 0) & (tolerance < 1)).all():
        each = "each category" if names is None else f"each of {len(names)} categories"
        raise ValueError(
            f"tolerance must be a number in [0, 1), or one for {each}, found {printable(str(given), 200)}. "
            "Divide points by 100"
        )
    return tolerance if names is None else np.broadcast_to(tolerance, len(names))


@dataclass(frozen=True, eq=False, repr=False)
class ClasswiseChange:
    """The change from one model to another on the same validation samples, category by category.

    The tests are paired: only samples that one model has right and the other wrong count. A category falls beyond
    chance if McNemar's exact test says so, corrected for the number of categories (Holm). The mean over the categories
    and the lowest accuracy are compared with those of fair coins in place of each sample on which the models differ.
    Intervals have a coverage of 95 % each.

    A tolerance is what you pay for a gain elsewhere. A category with one falls beyond chance if it loses more than that
    beyond chance (:func:`margin_test`). The mean may lose the mean of the tolerances. With a tolerance, the fall of the
    mean is tested by the normal distribution, with the standard error of :attr:`macro_interval`.

    Do not trust the p-values of a model that was chosen among many on these samples, unless you multiply them by how
    many there were. Do not trust them either if a model was trained, stopped or calibrated on these samples.

    Attributes:
        before: the model to compare with.
        after: the model in question.
        level: level of the tests for harm together, and of those for gains: half of it for the categories, half for
            the mean.
        tolerance: accuracy in [0, 1) that each category may lose, (K,). Give one number, K numbers, or some by name.

    Raises:
        ValueError: if the models were not measured on the same samples, or for a level or tolerance out of range.

    Example:
        >>> labels = [0] * 50 + [1] * 50
        >>> before = Outcome.of(labels, [0] * 30 + [1] * 70, ["cat", "dog"])
        >>> after = Outcome.of(labels, [0] * 45 + [1] * 55, ["cat", "dog"])
        >>> change = ClasswiseChange(before, after)
        >>> change.answer, change.accuracy.round(2).tolist()
        ('better', [0.3, 0.0])
    """

    before: Outcome
    after: Outcome
    level: float = 0.05
    tolerance: Tolerance = 0.0

    def __post_init__(self) -> None:
        names = [outcome.category_names for outcome in (self.before, self.after)]
        if names[0] != names[1]:
            first = next(k for k, pair in enumerate(zip_longest(*names)) if pair[0] != pair[1])
            found = " and ".join(str(list(each[first : first + 3])) for each in names)
            raise ValueError(
                f"the two models have different categories: {found} from number {first} on. Give both the same names "
                "in the same order"
            )
        if not np.array_equal(self.before.category, self.after.category):
            raise ValueError(OTHER_SAMPLES)
        checked_number(self.level, "level must be between 0 and 1", lambda value: 0 < value < 1)
        object.__setattr__(self, "tolerance", tolerance_of(self.tolerance, self.category_names))

    @property
    def category_names(self) -> tuple[str, ...]:
        """Names of the K categories."""
        return self.before.category_names

    @property
    def answer(self) -> Answer:
        """``"better"``, ``"harmful"``, ``"trade-off"`` (some categories fall and others rise) or ``"no difference"``.

        The last one means that none is shown. There may still be one that is too small for so many samples.
        """
        harm = bool(self.lost().any()) or self.p_mean_loss <= self.level / 2
        gain = self.rises(self.level)
        return ("trade-off" if gain else "harmful") if harm else ("better" if gain else "no difference")

    @property
    def accuracy(self) -> Float:
        """Change of each category's accuracy, (K,); NaN without samples."""
        return self.after.accuracy - self.before.accuracy

    @functools.cached_property
    def interval(self) -> Float:
        """Interval of each category's change, (2, K), see :func:`score_interval`; NaN without samples."""
        return score_interval(self._lost, self._won, self.before.support, COVERAGE)

    @property
    def macro(self) -> float:
        """Change of the mean accuracy over the categories."""
        return self.after.macro - self.before.macro

    @property
    def macro_tolerance(self) -> float:
        """What the mean over the categories may lose: the mean of their tolerances."""
        return float(np.asarray(self.tolerance)[self.before.support > 0].mean())

    @property
    def macro_error(self) -> float:
        """Standard error of :attr:`macro` for the sampling of validation data, paired."""
        won, lost, _, support = self._counts
        change, differ = (won - lost) / support, (won + lost) / support
        variances = (differ - change**2 * (support > 1)) / np.maximum(support - 1, 1)
        return float(np.sqrt(variances.sum()) / len(support))

    @property
    def macro_interval(self) -> tuple[float, float]:
        """Interval of :attr:`macro`, by the normal distribution.

        The standard error is that of two more differing samples in the smallest category. It is therefore never zero,
        and the interval holds the true change also if the models hardly differ.
        """
        half = float(stats.norm.isf((1 - COVERAGE) / 2)) * self._cautious_error
        return max(self.macro - half, -1.0), min(self.macro + half, 1.0)

    @property
    def worst(self) -> float:
        """Change of the lowest accuracy of a category, which need not be of the same one in both models."""
        return float(np.nanmin(self.after.accuracy) - np.nanmin(self.before.accuracy))

    @functools.cached_property
    def worst_interval(self) -> tuple[float, float]:
        """Interval of :attr:`worst`, by the bootstrap. It is rough, see :func:`lowest_interval`."""
        return lowest_interval(*self._counts, COVERAGE)

    @property
    def p_gain(self) -> float:
        """One-sided p-value of H0 "the mean over the categories does not rise".

        Under H0, each sample on which the models differ is a fair coin, as in :attr:`p_loss`. The mean over the
        categories is compared with that of many tosses.
        """
        return self._p_mean[0]

    @property
    def p_mean_loss(self) -> float:
        """One-sided p-value of H0 "the mean falls by no more than :attr:`macro_tolerance`".

        Without a tolerance, see :attr:`p_gain`.
        """
        if self.macro_tolerance > 0:
            return float(stats.norm.cdf((self.macro + self.macro_tolerance) / self._cautious_error))
        return self._p_mean[1]

    @functools.cached_property
    def p_worst_rise(self) -> float:
        """One-sided p-value of H0 "the lowest accuracy does not rise", see :attr:`p_gain`."""
        return lowest_p_value(*self._counts)

    @functools.cached_property
    def p_loss(self) -> Float:
        """One-sided p-value of H0 "this category falls by no more than its tolerance", (K,)."""
        p_values, margin = sign_test(self._lost, self._won), np.asarray(self.tolerance)
        some = margin > 0
        p_values[some] = margin_test(self._lost[some], self._won[some], self.before.support[some], margin[some])
        return p_values

    @functools.cached_property
    def p_rise(self) -> Float:
        """One-sided exact p-value of H0 "this category does not rise", (K,)."""
        return sign_test(self._won, self._lost)

    def lost(self, level: float | None = None) -> npt.NDArray[np.bool_]:
        """Which categories fall beyond chance, (K,), at a family-wise level (Holm), by default half of the own."""
        return self._found(self.p_loss, level)

    def risen(self, level: float | None = None) -> npt.NDArray[np.bool_]:
        """Which categories rise beyond chance, (K,), at a family-wise level (Holm), by default half of the own."""
        return self._found(self.p_rise, level)

    def rises(self, level: float, looks: int = 1) -> bool:
        """Whether the mean rises beyond chance, or some category does while the mean does not fall.

        With a tolerance, the mean may fall by as much as that.

        Args:
            level: level of both tests together, half of it for each.
            looks: among how many models this one was chosen on these samples (Bonferroni).
        """
        each = level / looks / 2
        return self.p_gain <= each or (self.macro >= -self.macro_tolerance and bool(self.risen(each).any()))

    def _found(self, p_values: Float, level: float | None) -> npt.NDArray[np.bool_]:
        tested = self.before.support > 0
        found = np.zeros(len(tested), dtype=bool)
        found[tested] = holm(p_values[tested], self.level / 2 if level is None else level)
        return found

    @property
    def _cautious_error(self) -> float:
        """:attr:`macro_error` with two more differing samples in the smallest category."""
        support = self._counts[3]
        return float(np.hypot(self.macro_error, np.sqrt(2) / (len(support) * support.min())))

    @functools.cached_property
    def _won(self) -> npt.NDArray[np.int64]:
        return self.before.count(self.after.correct & ~self.before.correct)

    @functools.cached_property
    def _lost(self) -> npt.NDArray[np.int64]:
        return self.before.count(self.before.correct & ~self.after.correct)

    @functools.cached_property
    def _p_mean(self) -> tuple[float, float]:
        won, lost, _, support = self._counts
        return mean_p_values(won, lost, support)

    @functools.cached_property
    def _counts(self) -> tuple[Counts, Counts, Counts, Counts]:
        """Samples won, lost, right in both models, and all, of the categories that have any."""
        some = self.before.support > 0
        both = self.before.hits - self._lost
        return self._won[some], self._lost[some], both[some], self.before.support[some]

    def __repr__(self) -> str:
        return f"ClasswiseChange({self.answer}, mean {100 * self.macro:+.1f} points)"

    @property
    def headline(self) -> str:
        """The answer in one sentence."""
        return headline(self)

    def __str__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        columns = {"category": self.category_names, **chosen_cells(COLUMNS, list(COLUMNS), self)}
        low, high = (100 * end for end in self.macro_interval)
        mean = f"Mean: {100 * self.macro:+.1f} points ({low:+.1f} to {high:+.1f}, p = {self.p_gain:.2g} of no rise)."
        return html_table(self.headline, columns, [mean])

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` by category. An ImportError says how to install pandas."""
        return data_frame(values_of(COLUMNS, self), self.category_names, "category")

    def as_dict(self) -> dict[str, Any]:
        """The change as nested mappings of plain values, with accuracies in %, for JSON."""
        values = {
            "category": self.category_names,
            **values_of(COLUMNS, self),
            "tolerance": 100 * np.asarray(self.tolerance),
            "lost": self.lost(),
            "risen": self.risen(),
        }
        rows = zip(*values.values(), strict=True)
        return {
            "answer": self.answer,
            "level": self.level,
            "mean": {
                "change": 100 * self.macro,
                **_ends(self.macro_interval),
                "tolerance": 100 * self.macro_tolerance,
                "p_rise": self.p_gain,
                "p_fall": self.p_mean_loss,
            },
            "lowest": {"change": 100 * self.worst, **_ends(self.worst_interval), "p_rise": self.p_worst_rise},
            "categories": [dict(zip(values, row, strict=True)) for row in rows],
        }

    def plot(self, ax: Any = None) -> Any:
        """Draw the accuracy of each category before and after, see :func:`lightning_pareto.plot_accuracy`."""
        from lightning_pareto.report.figures import plot_accuracy

        return plot_accuracy(self.before.accuracy, self.after.accuracy, self.category_names, self.before.support, ax=ax)


def _ends(interval: tuple[float, float]) -> dict[str, float]:
    return {"low": 100 * interval[0], "high": 100 * interval[1]}
