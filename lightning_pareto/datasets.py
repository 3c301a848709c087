"""Synthetic data for which it is known whether reweighting can help."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset


class Rows(TensorDataset):
    """Rows of tensors, read a whole batch at a time, which is faster for small samples."""

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, ...]]:
        """The rows at these indices."""
        return list(zip(*(tensor[indices].unbind() for tensor in self.tensors), strict=True))


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Samples with noisy and true labels.

    Attributes:
        inputs: (N, 2).
        given: noisy labels, as the model sees them, (N,).
        true: true labels, (N,).
    """

    inputs: Tensor
    given: Tensor
    true: Tensor

    @property
    def flipped(self) -> np.ndarray:
        """Which given labels are wrong, (N,)."""
        return np.asarray((self.given != self.true).numpy())

    def dataset(self) -> Rows:
        """Dataset of (input, noisy label) pairs."""
        return Rows(self.inputs, self.given)


def gaussian_classes(
    size: int, *, noise: float = 0.0, classes: int = 4, distance: float = 2.2, seed: int = 0
) -> LabelledData:
    """Draw overlapping Gaussian classes whose means lie on a circle.

    A linear classifier is optimal for these data. Without noise, a fitted linear model is at its ceiling, and no
    reweighting helps every class. With noise, it helps to down-weight the samples with wrong labels.

    Args:
        size: number of samples.
        noise: share of the labels that are replaced by another class, drawn uniformly.
        classes: number of classes.
        distance: radius of the circle in standard deviations.
        seed: random seed.

    Example:
        >>> data = gaussian_classes(1000, noise=0.3)
        >>> bool(abs(data.flipped.mean() - 0.3) < 0.05)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(classes, (size,), generator=generator)
    angle = 2 * torch.pi * true / classes
    means = distance * torch.stack([angle.cos(), angle.sin()], dim=1)
    inputs = means + torch.randn(size, 2, generator=generator)
    wrong = torch.rand(size, generator=generator) < noise
    shift = torch.randint(1, classes, (size,), generator=generator)
    return LabelledData(inputs, torch.where(wrong, (true + shift) % classes, true), true)
