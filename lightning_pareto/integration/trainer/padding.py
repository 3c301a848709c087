"""Padding: samples that a distributed sampler repeats to give every process equally many."""

from typing import Any

from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import BatchSampler, DistributedSampler

from lightning_pareto.integration.trainer.namespaces import counterpart


def samples_before_padding(loader: Any) -> int | None:
    """Number of samples that this process reads from ``loader`` before the padding begins.

    A ``DistributedSampler`` pads the order of the dataset with its own beginning and deals it out in turn. Sample j of
    process r has position r + j · R among R processes, and is padding from the size of the dataset on. So the padding
    comes last.

    Returns:
        The number, or None if the loader deals out its samples in another way.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    if type(batch_sampler) is not BatchSampler:
        return None
    sampler: Any = batch_sampler.sampler
    known = (DistributedSampler, counterpart(DistributedSamplerWrapper, sampler))
    if type(sampler) not in known:  # a subclass may deal in another way
        return None
    return len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))
