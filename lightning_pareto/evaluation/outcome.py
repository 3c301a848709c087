"""Which validation samples a model gets right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pareto.pareto.admissible import Float

OTHER_SAMPLES = (
    "two models were measured on different validation samples. A DataModule whose setup() splits at random must use a "
    "seeded generator: random_split(dataset, [0.8, 0.2], generator=torch.Generator().manual_seed(0))"
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """One model on one validation set of n samples.

    Attributes:
        category: category of each sample, (n,).
        correct: whether the label was predicted, (n,).
        probability: probability that the model gives to the label, (n,).
        category_names: names of the K categories.

    Raises:
        ValueError: if the arrays do not fit together.
    """

    category: npt.NDArray[np.int64]
    correct: npt.NDArray[np.bool_]
    probability: Float
    category_names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape, count = self.category.shape, len(self.category_names)
        if len(shape) != 1 or self.correct.shape != shape or self.probability.shape != shape:
            raise ValueError(
                f"category, correct and probability must be (n,), found {shape}, {self.correct.shape} and "
                f"{self.probability.shape}"
            )
        if not np.issubdtype(self.category.dtype, np.integer):
            raise ValueError(f"categories must be integers, found {self.category.dtype}")
        if len(self.category) and not 0 <= self.category.min() <= self.category.max() < count:
            raise ValueError(f"categories must lie in [0, {count}), one name for each")

    @property
    def support(self) -> npt.NDArray[np.int64]:
        """Number of samples of each category, (K,)."""
        return self.count(np.ones(len(self.category), dtype=bool))

    @property
    def hits(self) -> npt.NDArray[np.int64]:
        """Number of correct samples of each category, (K,)."""
        return self.count(self.correct)

    @property
    def accuracy(self) -> Float:
        """Accuracy of each category, (K,); NaN without samples."""
        return self._mean(self.correct)

    @property
    def macro(self) -> float:
        """Mean accuracy over the categories that have samples."""
        return float(np.nanmean(self.accuracy))

    @property
    def soft_accuracy(self) -> Float:
        """Mean probability of the true label in each category, (K,). It is less noisy than the accuracy."""
        return self._mean(self.probability)

    def count(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """How many of the chosen samples, (n,) bool, each category has, (K,)."""
        counts: npt.NDArray[np.int64] = np.bincount(self.category[chosen], minlength=len(self.category_names))
        return counts

    def on(self, chosen: npt.NDArray[np.bool_]) -> "Outcome":
        """The outcome on the chosen samples only, (n,) bool."""
        return Outcome(self.category[chosen], self.correct[chosen], self.probability[chosen], self.category_names)

    def placed(self, chosen: npt.NDArray[np.bool_], whole: "Outcome") -> "Outcome":
        """Put this outcome on some samples into an outcome on all of them.

        Args:
            chosen: the samples of this outcome, (n,) bool.
            whole: an outcome on all n samples, which supplies the others.

        Raises:
            ValueError: if this outcome is on other samples.
        """
        if not np.array_equal(self.category, whole.category[chosen]):
            raise ValueError(OTHER_SAMPLES)
        correct, probability = whole.correct.copy(), whole.probability.copy()
        correct[chosen], probability[chosen] = self.correct, self.probability
        return Outcome(whole.category, correct, probability, whole.category_names)

    def _mean(self, values: npt.NDArray[Any]) -> Float:
        sums, support = np.bincount(self.category, weights=values, minlength=len(self.category_names)), self.support
        means: Float = np.divide(sums, support, out=np.full(len(support), np.nan), where=support > 0)
        return means


def pooled(parts: Sequence[tuple[Outcome, npt.NDArray[np.bool_]]]) -> Outcome:
    """Several models as one, each on its own samples.

    Args:
        parts: outcomes on the same n samples, each with the samples that are its own, (n,) bool, without overlap.

    Returns:
        An outcome on the samples that belong to any of them.
    """
    result, covered = parts[0][0], np.zeros(len(parts[0][1]), dtype=bool)
    for outcome, own in parts:
        covered |= own
        result = outcome.on(own).placed(own, result)
    return result.on(covered)
