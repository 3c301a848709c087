"""Finds copies of training samples in a validation set, wherever either reads its samples from."""

from dataclasses import replace

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


def check_copies(train: GradientPass, validation: GradientPass) -> bool:
    """Refuse a validation set with many copies of training samples, and warn of a few.

    Besides what :func:`refuse_overlap` finds, it compares the logits of some samples. They tell samples apart whatever
    the inputs are, and hardly depend on padding and batch. The probe must be open.

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
    ours, rounding = train.run("search for copies", lambda: _projections(train))
    theirs, _ = validation.run("search for copies", lambda: _projections(validation))
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


def _projections(data: GradientPass) -> tuple[Tensor, float]:
    """Random projections of the compared samples' logits, (n, DIMENSIONS), and the relative rounding of logits."""
    chosen = sorted(drawn(data.size).tolist())
    found = torch.zeros(data.size, DIMENSIONS, dtype=torch.float64)
    rounding = torch.zeros(1, dtype=torch.float64)
    most, widest = 0.0, None
    for indices, batch, forward in replace(data, chosen=chosen, differentiable=False)("search for copies"):
        logits = forward.logits.detach()
        rounding[0] = torch.finfo(logits.dtype).eps
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(logits.shape[1], DIMENSIONS, dtype=torch.float64, generator=generator)
        found[indices] = logits.double().cpu() @ directions
        size = elements_per_sample(batch)
        if size > most and len(indices) > 1:
            most, widest = size, (indices[:COMPARED_ALONE].tolist(), logits[:COMPARED_ALONE].clone())
    if widest is not None:
        check_padding(data, *widest)
    return data.shard.sum(found)[chosen], float(data.shard.sum(rounding)) / data.shard.count
