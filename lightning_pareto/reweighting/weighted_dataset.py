"""Weights handed over in the batch, for training steps that weight their own loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_pareto.reweighting.weights import SampleWeights


class WeightedDataset(Dataset[Any]):
    """A map-style dataset whose samples carry their weight, so that a batch of any collate function does too.

    A dict sample gets the entry ``key``, a tuple or list sample one more element at its end: a float32 scalar, which
    is collated to (B,). ``training_step`` then takes ``(loss * weight).mean()`` over the per-sample losses. Every
    other attribute (``classes``, ``targets``) is the dataset's own.

    Weights in the loss and in the draws (:class:`ParetoSampler`) have the same mean. Draws need no change to the module
    and spend no time on samples that weigh nothing; weights in the loss take every sample once an epoch.

    Args:
        dataset: the user's dataset.
        weights: one weight for each of its indices.
        key: name of the weight in dict samples.

    Raises:
        ValueError: if there are not as many weights as samples, or the weights were made for other labels.

    Example:
        >>> data = WeightedDataset([("a", 0), ("b", 1)], [0.5, 1.5])
        >>> data[1]
        ('b', 1, tensor(1.5000))
    """

    def __init__(self, dataset: Any, weights: SampleWeights | npt.ArrayLike, key: str = "weight") -> None:
        weights = weights if isinstance(weights, SampleWeights) else SampleWeights(weights)  # type: ignore[arg-type]
        weights.check_dataset(dataset)
        self.dataset = dataset
        self.key = key
        self._values = torch.from_numpy(weights.values).float()

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Any:
        return self._weighted(self.dataset[index], self._values[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Fetch a batch at once, where the dataset can."""
        many = getattr(self.dataset, "__getitems__", None)
        samples = many(indices) if callable(many) else [self.dataset[index] for index in indices]
        return [self._weighted(sample, self._values[index]) for sample, index in zip(samples, indices, strict=True)]

    def __getattr__(self, name: str) -> Any:
        """Read what is not defined here from the user's dataset."""
        if name.startswith("__") or "dataset" not in self.__dict__:  # as while a copy is made
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.dataset, name)

    def _weighted(self, sample: Any, weight: Tensor) -> Any:
        if isinstance(sample, Mapping):
            if self.key in sample:
                raise ValueError(f"the samples have an entry {self.key!r} already: choose another key")
            return {**sample, self.key: weight}
        if isinstance(sample, (tuple, list)):
            return (*sample, weight)
        raise TypeError(
            f"samples must be dicts, tuples or lists to carry a weight, found {type(sample).__name__}: return "
            '{"x": x, "y": y} or (x, y) from the dataset'
        )
