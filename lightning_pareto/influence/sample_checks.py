"""Checks that samples do not change between reads, and that loss and model treat each sample on its own."""

import warnings
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_pareto.data.labels import first_label_out_of_range
from lightning_pareto.influence.measures import Measure, logit_gradient
from lightning_pareto.influence.passes import GradientPass

LOGIT_TOLERANCE, LOSS_TOLERANCE = 1e-2, 1e-3
"""Largest change of a sample's logits or loss, relative to the largest value, due to other samples in the batch."""


def check_labels(data: GradientPass, classes: int) -> None:
    """Read the first sample whose stored label is out of range, which raises a BatchError if its label really is.

    A stored label alone proves nothing, since a transform or the task may change it.
    """
    suspect = first_label_out_of_range(data.loader.dataset, classes)
    if suspect is not None:
        data.forward_of([suspect])


def check_loss(loss: Measure, logits: Tensor, targets: Tensor) -> None:
    """Raise a ValueError unless a loss has one finite value per sample, computed from that sample alone."""
    logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    logit_gradient(loss, logits, targets)
    with torch.no_grad():
        together = loss(logits, targets)
        alone = torch.cat([loss(z, y).reshape(-1) for z, y in zip(logits.split(1), targets.split(1), strict=True)])
    if float((together - alone).abs().max()) > LOSS_TOLERANCE * float(together.abs().max()):
        raise ValueError(
            "the loss of a sample changes with the other samples in its batch, but influence is defined per sample. "
            "ClassificationTask(loss=…) must compute each value from its own row, without a mean or a normalisation "
            "over the batch"
        )


def check_samples(few: GradientPass) -> tuple[Any, int]:
    """Warn about random samples in the dataset, and about a model that mixes the samples of a batch.

    Reads the samples of the pass twice. The probe must be open.

    Returns:
        The samples as one batch, and the number of classes.
    """
    batch, again = (few.batch_of(few.indices) for _ in range(2))
    with few.locating_errors(few.indices):
        forward = few.probe.forward(batch)
        check_loss(few.probe.task.loss, forward.logits, forward.targets)
    together = forward.logits.detach()
    if not all(torch.equal(a, b) for a, b in zip(_tensors(batch), _tensors(again), strict=True)):
        warnings.warn(
            "the training dataset returns a different sample each time the same index is read (a random transform?). "
            "The influence is that of one random draw. Pass a loader without augmentation: train_dataloader=…",
            stacklevel=3,
        )
        return batch, together.shape[1]
    alone = few.forward_of(few.indices[:1]).logits.detach()
    if float((together[:1] - alone).abs().max()) > LOGIT_TOLERANCE * float(together.abs().max()):
        warnings.warn(
            "the model's output for a sample changes with the other samples in its batch (unmasked padding? BatchNorm "
            "without running statistics?). Influence is defined per sample, and is accurate only if samples barely "
            "affect each other",
            stacklevel=3,
        )
    return batch, together.shape[1]


def _tensors(batch: Any) -> list[Tensor]:
    """Every tensor of a nested batch."""
    found: list[Tensor] = []
    apply_to_collection(batch, Tensor, found.append)
    return found
