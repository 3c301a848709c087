"""Checks that samples do not change between reads, and that loss and model treat each sample on its own."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_pareto.data.labels import first_label_out_of_range
from lightning_pareto.data.loaders import size_of_batches, with_sampler
from lightning_pareto.display.warning import warn
from lightning_pareto.influence.measures import Measure, logit_gradient
from lightning_pareto.influence.passes import GradientPass

ROWS_CHECKED = 16
"""How many random samples are read alone and in a batch, at most a batch of the loader's size."""

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


def check_rows(data: GradientPass) -> GradientPass:
    """Check on random samples that the rows of a batch are those of its indices, in their order.

    They are read alone, as a batch, and through the user's own loader class if there is one. The probe must be open.

    Returns:
        The pass. If the collate function changes the order, it reads samples one by one, and a warning says so.

    Raises:
        ValueError: if labels are random, or a loader class yields other samples.
    """
    few = data.sample(min(ROWS_CHECKED, size_of_batches(data.loader)), seed=0)
    batch, *alone = few.batches_of([few.indices, *([index] for index in few.indices)])
    alone_labels, labels = torch.cat(list(map(few.probe.task.read_targets, alone))), few.probe.task.read_targets(batch)
    few.check_labels(few.indices, alone_labels)
    other_labels = not torch.equal(alone_labels, labels)
    reordered = other_labels and torch.equal(alone_labels.sort().values, labels.sort().values)
    if reordered or (_is_reordered(batch, alone) and _same(batch, few.batch_of(few.indices))):
        warn(
            f"the collate function of the {data.name} loader changes the order of the samples, so they are read one by "
            "one, which is slow. Keep their order in collate_fn, and sort in the model instead"
        )
        return replace(data, one_by_one=True)
    few.check_labels(few.indices, labels)
    if type(few.loader).__iter__ is not DataLoader.__iter__:
        _check_loader(few, batch)
    return data


def check_samples(few: GradientPass) -> tuple[Any, int]:
    """Warn about random samples, and about a model that mixes the samples of a batch.

    Reads the samples of the pass twice together and once alone. The probe must be open.

    Returns:
        The samples as one batch, and the number of classes.
    """
    batch, again, *alone = few.batches_of([few.indices, few.indices, *([index] for index in few.indices)])
    with few.locating_errors(few.indices):
        forward = few.probe.forward(batch)
        check_loss(few.probe.task.loss, forward.logits, forward.targets)
    together = forward.logits.detach()
    if not _same(batch, again):
        warn(
            "the training dataset returns a different sample each time the same index is read (a random transform?). "
            "The influence is that of one random draw. Pass a loader without augmentation: train_dataloader=…"
        )
    elif not few.one_by_one:
        singly = torch.cat([few.probe.forward(single).logits.detach() for single in alone])
        _compare_logits(together, singly)
    return batch, together.shape[1]


def check_padding(data: GradientPass, indices: Sequence[int], together: Tensor) -> None:
    """Warn if the logits of some samples in a batch, (B, C), are others than those of the same samples alone.

    The batch should be the one with the largest samples: with unmasked padding, a single long text changes the others.
    Nothing is said of random samples, which another check reports.
    """
    if data.one_by_one:
        return
    alone = list(data.batches_of([[index] for index in (*indices, *indices)]))
    first, second = alone[: len(indices)], alone[len(indices) :]
    if all(map(_same, first, second)):
        _compare_logits(together, torch.cat([data.probe.forward(batch).logits.detach() for batch in first]))


def _compare_logits(together: Tensor, alone: Tensor) -> None:
    if float((together - alone).abs().max()) > LOGIT_TOLERANCE * float(together.abs().max()):
        warn(
            "the model's output for a sample changes with the other samples in its batch (unmasked padding? "
            "BatchNorm without running statistics?). Influence is defined per sample, and is accurate only if "
            "samples barely affect each other"
        )


def elements_per_sample(batch: Any) -> float:
    """Number of tensor elements in a batch for each of its samples."""
    tensors = [part for part in _tensors(batch) if part.ndim]
    return sum(part.numel() for part in tensors) / max(map(len, tensors), default=1)


def _check_loader(few: GradientPass, batch: Any) -> None:
    """Refuse a loader class whose own iteration does not yield the samples of its indices."""
    order: Any = few.indices
    same = with_sampler(few.loader, order, drop_last=False, generator=torch.Generator(), batch_size=len(order))
    found = list(map(few.moved, itertools.islice(same, 2)))  # the user's class may never end
    for each in found:
        few.check_labels(few.indices, few.probe.task.read_targets(each))
    if len(found) != 1 or (_same(batch, few.batch_of(few.indices)) and not _same(batch, found[0])):
        raise ValueError(
            f"the {few.name} loader is a {type(few.loader).__name__} that yields other samples than those of the "
            "indices of its sampler. Influence belongs to dataset indices: use a plain DataLoader"
            + (", for the analysis at least: train_dataloader=DataLoader(dataset, …)" * (few.name == "training"))
        )


def _is_reordered(batch: Any, alone: Sequence[Any]) -> bool:
    """Whether the rows of a batch, perhaps padded at their ends, are the samples, but not each its own."""
    leaves = [_tensors(each) for each in (batch, *alone)]
    if len(set(map(len, leaves))) > 1:
        return False
    return any(
        not all(map(_begins_with, rows, ones)) and all(any(_begins_with(row, one) for one in ones) for row in rows)
        for rows, *ones in zip(*leaves, strict=True)
        if rows.ndim > 1 and len(rows) == len(alone)
    )


def _begins_with(row: Tensor, one: Tensor) -> bool:
    """Whether a row of a batch, (…), holds a sample that was read alone, (1, …), and then perhaps padding."""
    if one.ndim != row.ndim + 1 or len(one) != 1 or one.numel() < 2:
        return False
    return torch.equal(row[tuple(map(slice, one.shape[1:]))], one[0])


def _same(batch: Any, other: Any) -> bool:
    ours, theirs = _tensors(batch), _tensors(other)
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def _tensors(batch: Any) -> list[Tensor]:
    """Every tensor of a nested batch."""
    found: list[Tensor] = []
    apply_to_collection(batch, Tensor, found.append)
    return found
