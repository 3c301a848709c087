"""Samples that a distributed sampler repeats to give every process as many."""

from typing import Any

from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import BatchSampler, DistributedSampler

from lightning_pareto.integration.trainer.namespaces import fitting


def samples_before_repeats(loader: Any) -> int | None:
    """Number of samples that this process reads from ``loader`` before the first repeated one.

    A ``DistributedSampler`` lengthens the order of the dataset by its own beginning and deals it out in turn: sample j
    of process r stands at position r + j · R of R processes, and is a repeat from the size of the dataset on. So the
    repeats come last.

    Returns:
        The number, or None if the loader deals its samples out in another way.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    if type(batch_sampler) is not BatchSampler:
        return None
    sampler: Any = batch_sampler.sampler
    known = (DistributedSampler, fitting(DistributedSamplerWrapper, sampler))
    if type(sampler) not in known:  # a subclass may deal in another way
        return None
    return len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))
