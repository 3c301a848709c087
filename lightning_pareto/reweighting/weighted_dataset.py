"""A dataset that puts the weights into the batch, for training steps that weight their own loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_pareto.reweighting.weights import SampleWeights


class WeightedDataset(Dataset[Any]):
    """A map-style dataset whose samples carry their weights, so that batches contain them.

    The weight is a float32 scalar, which is collated to (B,). Dict samples get it as the entry ``key``, tuples and
    lists as an additional last element. In ``training_step``, return ``(loss * weight).mean()`` over the per-sample
    losses. All other attributes (``classes``, ``targets``) are forwarded to the dataset.

    Weights in the loss have the same effect on average as weighted draws (:class:`ParetoSampler`). Draws need no change
    to the module and spend no time on samples of weight zero. Weights in the loss use every sample once per epoch.

    Args:
        dataset: the dataset to wrap.
        weights: one weight per dataset index.
        key: name of the weight in dict samples.

    Raises:
        ValueError: if the number of weights is wrong, or if they belong to other labels.

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
        self.weights = weights
        self._values = torch.from_numpy(weights.values).float()

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Any:
        return self._weighted(self.dataset[index], self._values[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Fetch a batch at once if the dataset supports it."""
        fetch_many = getattr(self.dataset, "__getitems__", None)
        samples = fetch_many(indices) if callable(fetch_many) else [self.dataset[index] for index in indices]
        return [self._weighted(sample, self._values[index]) for sample, index in zip(samples, indices, strict=True)]

    def __getattr__(self, name: str) -> Any:
        """Forward all other attributes to the dataset."""
        if name.startswith("__") or "dataset" not in self.__dict__:  # copy and pickle create objects without attributes
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.dataset, name)

    def _weighted(self, sample: Any, weight: Tensor) -> Any:
        if isinstance(sample, Mapping):
            if self.key in sample:
                raise ValueError(f"samples already have an entry {self.key!r}. Choose another key")
            return {**sample, self.key: weight}
        if isinstance(sample, (tuple, list)):
            return (*sample, weight)
        raise TypeError(
            f"samples must be dicts, tuples or lists to carry a weight, found {type(sample).__name__}. Return "
            '{"x": x, "y": y} or (x, y) from the dataset'
        )


def weights_in_batch(dataset: Any, batch: Any) -> Tensor | None:
    """The weights in a batch of a :class:`WeightedDataset`, (B,); None for any other dataset or batch."""
    if not isinstance(dataset, WeightedDataset):
        return None
    found = batch.get(dataset.key) if isinstance(batch, Mapping) else batch[-1]
    return found if isinstance(found, Tensor) and found.ndim == 1 else None
