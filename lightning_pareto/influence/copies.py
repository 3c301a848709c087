"""Finds copies of training samples in a validation set, wherever either reads its samples from."""

from dataclasses import replace
from typing import Any

import torch
from scipy.spatial import KDTree
from torch import Tensor

from lightning_pareto.data.overlap import drawn, refuse_copies, refuse_overlap
from lightning_pareto.influence.passes import GradientPass
from lightning_pareto.influence.sample_checks import check_padding, elements_per_sample

DIMENSIONS = 4
"""How many projections of the logits are compared."""

COMPARED_ALONE = 4
"""How many samples of the batch with the largest samples are also read alone."""

TOLERANCE, ROUNDINGS = 2e-5, 4
"""Logits of one sample in two batches differ by this share of their standard deviation, or by some roundings."""


class Projections:
    """Random projections of the logits of a dataset's compared samples, and its batch with the largest samples.

    Args:
        data: the dataset. Batches of it may be added again, and may hold other samples, too.
    """

    def __init__(self, data: GradientPass) -> None:
        self._data = data
        self._chosen = sorted(drawn(data.size).tolist())
        self._found = torch.zeros(data.size, DIMENSIONS, dtype=torch.float64)
        self._rounding = torch.zeros(1, dtype=torch.float64)
        self._most = 0.0
        self._widest: tuple[list[int], Tensor] | None = None

    def add(self, indices: Tensor, batch: Any, logits: Tensor) -> None:
        """Add a batch."""
        self._rounding[0] = torch.finfo(logits.dtype).eps
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(logits.shape[1], DIMENSIONS, dtype=torch.float64, generator=generator)
        self._found[indices] = logits.double().cpu() @ directions
        size = elements_per_sample(batch)
        if size > self._most and len(indices) > 1:
            self._most = size
            self._widest = indices[:COMPARED_ALONE].tolist(), logits[:COMPARED_ALONE].clone()

    def read(self) -> None:
        """Add the compared samples."""
        compared = replace(self._data, chosen=self._chosen, differentiable=False)
        for indices, batch, forward in compared("search for copies"):
            self.add(indices, batch, forward.logits)

    def total(self) -> tuple[Tensor, float]:
        """Those of all processes, (n, DIMENSIONS), and the relative rounding of logits. Checks the padding as well."""
        if self._widest is not None:
            check_padding(self._data, *self._widest)
        shard = self._data.shard
        return shard.sum(self._found)[self._chosen], float(shard.sum(self._rounding)) / shard.count


def check_copies(train: GradientPass, validation: GradientPass, seen: Projections) -> bool:
    """Refuse a validation set with many copies of training samples, and warn of a few.

    Besides what :func:`refuse_overlap` finds, it compares the logits of some samples. They tell samples apart whatever
    the inputs are, and hardly depend on padding and batch. The probe must be open.

    Args:
        train: the training set.
        validation: the validation set.
        seen: projections of all samples of the validation set.

    Returns:
        Whether both sets are the same dataset. This is allowed, since influence of samples on each other has uses, but
        it says nothing about generalisation.

    Raises:
        ValueError: for many copies.
    """
    if train.loader.dataset is validation.loader.dataset:
        return True
    with train.shard.agreement("comparison of the data"):
        refuse_overlap(train.loader.dataset, validation.loader.dataset)
    compared = Projections(train)
    train.run("search for copies", compared.read)
    ours, rounding = train.run("search for copies", compared.total)
    theirs, _ = validation.run("search for copies", seen.total)
    middle, scale = ours.mean(dim=0), ours.std(dim=0, correction=0)
    telling = scale > rounding * middle.abs()
    if not telling.any():  # one sample, or a model that tells none apart
        return False
    ours, theirs = ((each - middle)[:, telling] / scale[telling] for each in (ours, theirs))
    tolerance = max(TOLERANCE, ROUNDINGS * rounding)
    tree = KDTree(ours.numpy())
    others = tree.query(ours.numpy(), k=[2], p=torch.inf)[0][:, 0]
    nearest = tree.query(theirs.numpy(), p=torch.inf)[0]
    refuse_copies(others <= tolerance, nearest <= tolerance, train.size)
    return False
