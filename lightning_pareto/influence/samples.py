"""Is a sample the same whenever it is read, and does the model treat it alone?"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_pareto.influence.gradients import GradientProbe
from lightning_pareto.influence.passes import GradientPass

SAME_LOGITS = 1e-2
"""Largest change of a logit, relative to the largest one, that another company in the batch may make."""


def check_samples(train: GradientPass, probe: GradientProbe, count: int) -> None:
    """Warn of a dataset with random samples, and of a model that mixes the samples of a batch.

    Args:
        train: the training pass.
        probe: must be open.
        count: how many samples to look at.
    """
    first, again = train.first(count), train.first(count)
    if not all(torch.equal(a, b) for a, b in zip(_tensors(first), _tensors(again), strict=True)):
        warnings.warn(
            "the training dataset gives another sample each time the same index is read (a random transform?): the "
            "influence is that of one random draw. Give a loader without augmentation: train_dataloader=…",
            stacklevel=3,
        )
        return
    together = probe.forward(first).logits.detach()
    alone = probe.forward(train.first(1)).logits.detach()
    if float((together[:1] - alone).abs().max()) > SAME_LOGITS * float(together.abs().max()):
        warnings.warn(
            "the model's output for a sample changes with the other samples in its batch (padding that is not masked? "
            "a BatchNorm without running statistics?): influence belongs to single samples, and is only as right as "
            "this dependence is weak",
            stacklevel=3,
        )


def _tensors(batch: Any) -> Iterator[Tensor]:
    """Every tensor of a nested batch."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, (tuple, list)):
        for value in batch:
            yield from _tensors(value)
