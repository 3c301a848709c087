"""What a trained model does on each category of the validation set, and how two models compare."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from lightning_pareto.pareto.admissible import Float

TOSSES = 20_000
"""Draws behind the p-value of a mean."""

OTHER_SAMPLES = (
    "two models were measured on different validation samples: a DataModule whose setup() splits at random must do so "
    "with a seeded generator, for instance random_split(dataset, [0.8, 0.2], "
    "generator=torch.Generator().manual_seed(0))"
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """One model on one validation set.

    Attributes:
        category: (n,) category of every validation sample.
        correct: (n,) whether its label was predicted.
        probability: (n,) probability that the model gave to its label.
        names: the K categories.

    Raises:
        ValueError: if the arrays do not fit together.
    """

    category: npt.NDArray[np.int64]
    correct: npt.NDArray[np.bool_]
    probability: Float
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.category.shape
        if len(shape) != 1 or self.correct.shape != shape or self.probability.shape != shape:
            raise ValueError(
                f"category, correct and probability must be (n,), found {shape}, {self.correct.shape} and "
                f"{self.probability.shape}"
            )
        if not np.issubdtype(self.category.dtype, np.integer):
            raise ValueError(f"categories must be integers, found {self.category.dtype}")
        if len(self.category) and not 0 <= self.category.min() <= self.category.max() < len(self.names):
            raise ValueError(f"categories must lie in [0, {len(self.names)}), one name for each")

    @property
    def support(self) -> npt.NDArray[np.int64]:
        """Samples of every category, (K,)."""
        counts: npt.NDArray[np.int64] = np.bincount(self.category, minlength=len(self.names))
        return counts

    @property
    def accuracy(self) -> Float:
        """Of every category, (K,); NaN without samples."""
        return self._mean(self.correct)

    @property
    def macro(self) -> float:
        """Mean accuracy over the categories that have samples."""
        return float(np.nanmean(self.accuracy))

    @property
    def soft_accuracy(self) -> Float:
        """Mean probability of the true label in every category, (K,); less noisy than the accuracy."""
        return self._mean(self.probability)

    def on(self, chosen: npt.NDArray[np.bool_]) -> "Outcome":
        """The outcome on some of the samples, (n,) bool."""
        return Outcome(self.category[chosen], self.correct[chosen], self.probability[chosen], self.names)

    def placed(self, chosen: npt.NDArray[np.bool_], whole: "Outcome") -> "Outcome":
        """This outcome, of some samples, at their place among all; the others are those of another outcome.

        Args:
            chosen: which samples this is of, (n,) bool.
            whole: an outcome on all n samples.

        Raises:
            ValueError: if it is of other samples.
        """
        if not np.array_equal(self.category, whole.category[chosen]):
            raise ValueError(OTHER_SAMPLES)
        found = Outcome(whole.category, whole.correct.copy(), whole.probability.copy(), whole.names)
        found.correct[chosen], found.probability[chosen] = self.correct, self.probability
        return found

    def _mean(self, values: npt.NDArray[Any]) -> Float:
        sums = np.bincount(self.category, weights=values, minlength=len(self.names))
        support = self.support
        means: Float = np.divide(sums, support, out=np.full(len(self.names), np.nan), where=support > 0)
        return means


def _family_wise(p_values: Float, level: float) -> npt.NDArray[np.bool_]:
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(order), 0, -1)
    result = np.zeros(len(order), dtype=bool)
    result[order] = np.maximum.accumulate(steps) <= level
    return result


def pooled(parts: Sequence[tuple[Outcome, npt.NDArray[np.bool_]]]) -> Outcome:
    """Several models as one, each on the samples that are its own.

    Args:
        parts: outcomes on the same n samples, and the share of each, (n,) bool, without overlap.
    """
    category, correct, probability = (x.copy() for x in _arrays(parts[0][0]))
    found = Outcome(category, correct, probability, parts[0][0].names)
    covered = np.zeros(len(found.category), dtype=bool)
    for outcome, own in parts:
        covered |= own
        for mine, theirs in zip(_arrays(found)[1:], _arrays(outcome)[1:], strict=True):
            mine[own] = theirs[own]
    return found.on(covered)


def _arrays(outcome: Outcome) -> tuple[npt.NDArray[Any], ...]:
    return outcome.category, outcome.correct, outcome.probability


@dataclass(frozen=True, eq=False)
class Change:
    """The change from one model to another on the same validation samples, category by category.

    Both models answer the same samples, so the tests are paired: of a category only the samples count that one model
    has right and the other wrong (McNemar's exact test).

    Do not trust the p-values of a model that was chosen among many on these samples without multiplying them by how
    many there were.

    Attributes:
        before: the model to compare with.
        after: the model in question.

    Raises:
        ValueError: if they were not measured on the same samples.
    """

    before: Outcome
    after: Outcome

    def __post_init__(self) -> None:
        same = np.array_equal(self.before.category, self.after.category)
        if not same or self.before.names != self.after.names:
            raise ValueError(OTHER_SAMPLES)

    @property
    def accuracy(self) -> Float:
        """Change of every category's accuracy, (K,); NaN without samples."""
        return self.after.accuracy - self.before.accuracy

    @property
    def macro(self) -> float:
        """Change of the mean over the categories."""
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

        Of the samples on which the models differ each is a fair coin, as in :attr:`p_loss`; the mean over the
        categories is compared with that of many tosses.
        """
        share = np.divide(1.0, self.before.support, out=np.zeros(len(self._differ)), where=self.before.support > 0)
        won = 2 * self._count(self.after.correct & ~self.before.correct) - self._differ
        tosses = 2 * np.random.default_rng(0).binomial(self._differ, 0.5, (TOSSES, len(share))) - self._differ
        reached = tosses @ share >= won @ share - 1e-12
        return float((1 + reached.sum()) / (1 + TOSSES))

    @functools.cached_property
    def p_loss(self) -> Float:
        """One-sided exact p-value of H0 "this category does not fall", (K,)."""
        return self._exact(self.before.correct & ~self.after.correct)

    @functools.cached_property
    def p_rise(self) -> Float:
        """One-sided exact p-value of H0 "this category does not rise", (K,)."""
        return self._exact(self.after.correct & ~self.before.correct)

    def lost(self, level: float) -> npt.NDArray[np.bool_]:
        """Which categories fall beyond chance, (K,), at a family-wise level (Holm)."""
        return _family_wise(self.p_loss, level)

    def risen(self, level: float) -> npt.NDArray[np.bool_]:
        """Which categories rise beyond chance, (K,), at a family-wise level (Holm)."""
        return _family_wise(self.p_rise, level)

    def rises(self, level: float, looks: int = 1) -> bool:
        """Whether the mean over the categories rises beyond chance, or some category does and the mean does not fall.

        Args:
            level: of both tests together, half of it for each.
            looks: among how many models this one was chosen on these samples (Bonferroni).
        """
        each = level / looks / 2
        return self.p_gain <= each or (self.macro >= 0 and bool(self.risen(each).any()))

    def _exact(self, discordant: npt.NDArray[np.bool_]) -> Float:
        """P(at least as many of the samples on which the models differ), each a fair coin, (K,)."""
        p_values: Float = stats.binom.sf(self._count(discordant) - 1, self._differ, 0.5)
        return p_values

    @functools.cached_property
    def _differ(self) -> npt.NDArray[np.int64]:
        """Samples of every category on which the models differ, (K,)."""
        return self._count(self.before.correct != self.after.correct)

    def _count(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        return self.before.on(chosen).support
