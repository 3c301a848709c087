"""Which validation samples a model gets right."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from lightning_pareto.arguments import checked_names
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.storage.artifacts import consistent_parts, load_artifact, save_artifact

FILE_SUFFIX = ".safetensors"
"""How the names of files with outcomes end. Anything else is taken for a checkpoint."""

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
        predicted: predicted label of each sample, (n,); None if it is unknown.

    Raises:
        ValueError: if the arrays do not fit together.

    Example:
        >>> outcome = Outcome.of([0, 0, 1], [0, 1, 1], ["cat", "dog"])
        >>> outcome.accuracy.tolist()
        [0.5, 1.0]
    """

    category: npt.NDArray[np.int64]
    correct: npt.NDArray[np.bool_]
    probability: Float
    category_names: tuple[str, ...]
    predicted: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count, given = len(self.category_names), {n: v for n, v in vars(self).items() if isinstance(v, np.ndarray)}
        shape = self.category.shape
        if len(shape) != 1 or any(values.shape != shape for values in given.values()):
            found = ", ".join(f"{name} {values.shape}" for name, values in given.items())
            raise ValueError(f"all arrays must be (n,), one entry per sample, found {found}")
        if not np.issubdtype(self.category.dtype, np.integer):
            raise ValueError(f"categories must be integers, found {self.category.dtype}")
        if self.correct.dtype != bool:
            raise ValueError(f"correct must be bool, found {self.correct.dtype}: correct = predictions == labels")
        if len(self.category) and not 0 <= self.category.min() <= self.category.max() < count:
            raise ValueError(f"categories must lie in [0, {count}), one name for each")

    @classmethod
    def of(
        cls,
        labels: npt.ArrayLike,
        predictions: npt.ArrayLike,
        category_names: Sequence[str],
        categories: npt.ArrayLike | None = None,
    ) -> "Outcome":
        """The outcome of predictions that you have made yourself.

        Args:
            labels: labels of the n samples, (n,) integers.
            predictions: predicted labels, (n,), or the probabilities or logits of C classes, (n, C). Predicted labels
                count as certain in :attr:`probability`. Numbers outside [0, 1] are taken for logits.
            category_names: names of the K categories, of the classes unless there are ``categories``.
            categories: category of each sample, (n,), in [0, K); None for its label.

        Raises:
            ValueError: if the shapes disagree, labels are not integers, or a label has no probability or no name.
        """
        truth, found = np.asarray(labels), np.asarray(predictions)
        if truth.ndim != 1 or found.ndim not in (1, 2) or len(found) != len(truth) or not len(truth):
            raise ValueError(
                f"expected labels (n,) and predictions (n,) or (n, C), found the shapes {truth.shape} and {found.shape}"
            )
        if np.issubdtype(found.dtype, np.floating) and not np.isfinite(found).all():
            raise ValueError("predictions must be finite: look for NaN in the inputs or a diverged model")
        for name, values in (("labels", truth), ("predictions", found)):
            if values.ndim == 1 and not np.issubdtype(values.dtype, np.integer):
                raise ValueError(
                    f"{name} (n,) must be integers, found {values.dtype}: {name}.astype(int) for whole numbers, "
                    f"[category_names.index(name) for name in {name}] for names"
                )
        if found.ndim == 2:
            if not 0 <= truth.min() <= truth.max() < found.shape[1]:
                raise ValueError(
                    f"labels must be integers in [0, {found.shape[1]}), one for each column of predictions"
                )
            found = found.astype(np.float64)
            if found.min() < 0 or found.max() > 1:
                found = special.softmax(found, axis=1)
            probability, found = found[np.arange(len(truth)), truth], found.argmax(axis=1)
        else:
            probability = np.asarray(found == truth, dtype=np.float64)
        category = truth if categories is None else np.asarray(categories)
        names = checked_names(category_names, "category_names")
        return cls(category, found == truth, probability, names, predicted=found)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the outcome to ``path`` (safetensors), whole or not at all."""
        return save_artifact(path, "outcome", self.arrays, {"category_names": list(self.category_names)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Outcome":
        """Read an outcome written by :meth:`save`. Any other file raises an :class:`ArtifactError`."""
        arrays, metadata = load_artifact(path, "outcome")
        with consistent_parts(path):
            return cls.of_arrays(arrays, metadata)

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays as a file can hold them."""
        given = {name: values for name, values in vars(self).items() if isinstance(values, np.ndarray)}
        return given | {"correct": self.correct.astype(np.uint8)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, Any]) -> "Outcome":
        """The outcome whose :attr:`arrays` and names were stored."""
        names = tuple(map(str, metadata["category_names"]))
        correct = arrays["correct"].astype(bool)
        return cls(arrays["category"], correct, arrays["probability"], names, arrays.get("predicted"))

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

    @property
    def mistaken_for(self) -> list[tuple[int, int, int]]:
        """The label that samples of each category are most often mistaken for, how often, and all mistakes; K of them.

        Zeros for a category without mistakes, and for all if the predictions are unknown.
        """
        found = [(0, 0, 0)] * len(self.category_names)
        predicted = self.predicted
        if predicted is None:
            return found
        for k in range(len(found)):
            wrong = predicted[(self.category == k) & ~self.correct]
            if len(wrong):
                labels, counts = np.unique(wrong, return_counts=True)
                most = int(counts.argmax())
                found[k] = int(labels[most]), int(counts[most]), len(wrong)
        return found

    def count(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """How many of the chosen samples, (n,) bool, each category has, (K,)."""
        counts: npt.NDArray[np.int64] = np.bincount(self.category[chosen], minlength=len(self.category_names))
        return counts

    def on(self, chosen: npt.NDArray[np.bool_]) -> "Outcome":
        """The outcome on the chosen samples only, (n,) bool."""
        given = {name: values[chosen] for name, values in vars(self).items() if isinstance(values, np.ndarray)}
        return Outcome(**given, category_names=self.category_names)

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
        placed = {}
        for name, values in vars(whole).items():
            own = getattr(self, name)
            if isinstance(values, np.ndarray) and own is not None:
                placed[name] = values.copy()
                placed[name][chosen] = own
        return Outcome(**placed, category_names=whole.category_names)

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
