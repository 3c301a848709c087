"""How a model changed, category by category, and whether that is more than chance."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pareto.evaluation.outcome import OTHER_SAMPLES, Outcome
from lightning_pareto.evaluation.paired_tests import holm, sign_test, unpaired_test
from lightning_pareto.pareto.admissible import Float

TOSSES = 20_000
"""Draws behind the p-value of a mean."""


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


@dataclass(frozen=True, eq=False)
class ClasswiseChange:
    """The change from one model to another on the same validation samples, category by category.

    The tests are paired: only samples that one model has right and the other wrong count (McNemar's exact test).

    Do not trust the p-values of a model that was chosen among many on these samples, unless you multiply them by how
    many there were.

    Attributes:
        before: the model to compare with.
        after: the model in question.

    Raises:
        ValueError: if the models were not measured on the same samples.
    """

    before: Outcome
    after: Outcome

    def __post_init__(self) -> None:
        same = np.array_equal(self.before.category, self.after.category)
        if not same or self.before.category_names != self.after.category_names:
            raise ValueError(OTHER_SAMPLES)

    @property
    def accuracy(self) -> Float:
        """Change of each category's accuracy, (K,); NaN without samples."""
        return self.after.accuracy - self.before.accuracy

    @property
    def macro(self) -> float:
        """Change of the mean accuracy over the categories."""
        return self.after.macro - self.before.macro

    @property
    def macro_error(self) -> float:
        """Standard error of :attr:`macro` for the sampling of validation data, paired."""
        difference = self.after.correct.astype(float) - self.before.correct
        parts = [difference[self.after.category == k] for k in np.flatnonzero(self.after.support)]
        variances = [d.var(ddof=1) / len(d) if len(d) > 1 else 1.0 for d in parts]
        return float(np.sqrt(sum(variances)) / len(parts))

    @functools.cached_property
    def p_gain(self) -> float:
        """One-sided p-value of H0 "the mean over the categories does not rise".

        Under H0, each sample on which the models differ is a fair coin, as in :attr:`p_loss`. The mean over the
        categories is compared with that of many tosses.
        """
        differ = self._won + self._lost
        share = np.divide(1.0, self.before.support, out=np.zeros(len(differ)), where=self.before.support > 0)
        tosses = 2 * np.random.default_rng(0).binomial(differ, 0.5, (TOSSES, len(share))) - differ
        reached = tosses @ share >= (self._won - self._lost) @ share - 1e-12
        return float((1 + reached.sum()) / (1 + TOSSES))

    @functools.cached_property
    def p_loss(self) -> Float:
        """One-sided exact p-value of H0 "this category does not fall", (K,)."""
        return sign_test(self._lost, self._won)

    @functools.cached_property
    def p_rise(self) -> Float:
        """One-sided exact p-value of H0 "this category does not rise", (K,)."""
        return sign_test(self._won, self._lost)

    def lost(self, level: float) -> npt.NDArray[np.bool_]:
        """Which categories fall beyond chance, (K,), at a family-wise level (Holm)."""
        return fallen(self.before, self.after, level=level)

    def risen(self, level: float) -> npt.NDArray[np.bool_]:
        """Which categories rise beyond chance, (K,), at a family-wise level (Holm)."""
        return fallen(self.after, self.before, level=level)

    def rises(self, level: float, looks: int = 1) -> bool:
        """Whether the mean rises beyond chance, or some category does while the mean does not fall.

        Args:
            level: level of both tests together, half of it for each.
            looks: among how many models this one was chosen on these samples (Bonferroni).
        """
        each = level / looks / 2
        return self.p_gain <= each or (self.macro >= 0 and bool(self.risen(each).any()))

    @functools.cached_property
    def _won(self) -> npt.NDArray[np.int64]:
        return self.before.count(self.after.correct & ~self.before.correct)

    @functools.cached_property
    def _lost(self) -> npt.NDArray[np.int64]:
        return self.before.count(self.before.correct & ~self.after.correct)
