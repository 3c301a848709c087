"""Systematic resampling: every sample drawn as often as its weight says, within one."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from torch.utils.data import DistributedSampler

from lightning_pareto.reweighting.weights import SampleWeights


def systematic_counts(weights: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw how often each sample appears in one epoch.

    With C the cumulative sum of the weights over a random order and u uniform in [0, 1), sample i appears
    ``⌊C_i + u⌋ − ⌊C_{i−1} + u⌋`` times: its mean is exactly w_i and it is within one of w_i. The random order keeps
    neighbours from being tied to each other.

    Args:
        weights: (N,) weights ≥ 0 with an integer sum.
        rng: source of the order and of u.

    Returns:
        Counts with the same sum, (N,).
    """
    order = rng.permutation(len(weights))
    total = round(weights.sum())
    cumulative = np.minimum(np.cumsum(weights[order]), total)
    cumulative[-1] = total  # exact, whatever the rounding of the sum
    # An integer cumulative sum must floor to itself plus u's part whatever the rounding: u stays clear of 0 and 1.
    u = rng.uniform(2**-20, 1 - 2**-20)
    counts = np.empty(len(weights), dtype=np.int64)
    counts[order] = np.diff(np.floor(cumulative + u).astype(np.int64), prepend=0)
    return counts


class ParetoSampler(DistributedSampler[int]):
    """Draws an epoch of dataset indices by systematic resampling, shuffled anew every epoch.

    Being a ``DistributedSampler``, it is used by Lightning as it is and told of every epoch. An epoch has Σw draws
    (rounded), as long as an ordinary one for weights of mean 1; with w ≡ 1 it *is* an ordinary shuffled epoch. Over
    several replicas the draws are dealt out in turn; the last ones are repeated or dropped to make the replicas even,
    as ``DistributedSampler`` does.

    Args:
        weights: weights of the dataset's indices, (N,).
        num_replicas: number of processes; by default that of the process group when it is iterated, else 1.
        rank: this process; likewise.
        seed: the same on all processes.
        drop_last: drop the draws that do not divide over the replicas instead of repeating some.

    Raises:
        ValueError: if the weights are negative, not finite or all zero.

    Example:
        >>> sampler = ParetoSampler([2.0, 1.0, 0.0], num_replicas=1, rank=0)
        >>> sorted(sampler)
        [0, 0, 1]
    """

    def __init__(
        self,
        weights: SampleWeights | npt.ArrayLike,
        *,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if not isinstance(weights, SampleWeights):
            weights = SampleWeights(np.asarray(weights))
        values = weights.values
        draws = max(1, round(values.sum()))
        self._given = (num_replicas, rank)
        super().__init__(
            range(draws),  # type: ignore[arg-type]  # only its length is read
            num_replicas=1 if num_replicas is None else num_replicas,
            rank=0 if rank is None else rank,
            shuffle=True,
            seed=seed,
            drop_last=drop_last,
        )
        self.weights = weights
        self._scaled = values * (draws / values.sum())

    def __len__(self) -> int:
        self._follow_process_group()
        return self.num_samples

    def __iter__(self) -> Iterator[Any]:
        self._follow_process_group()
        rng = np.random.default_rng((self.seed, self.epoch))
        indices = rng.permutation(np.repeat(np.arange(len(self._scaled)), systematic_counts(self._scaled, rng)))
        if len(indices) < self.total_size:
            indices = np.resize(indices, self.total_size)
        return iter(indices[self.rank : self.total_size : self.num_replicas].tolist())

    def _follow_process_group(self) -> None:
        """Resolve what was left open only now: a sampler is often made before the processes are launched."""
        up = dist.is_available() and dist.is_initialized()
        replicas, rank = self._given
        self.num_replicas = (dist.get_world_size() if up else 1) if replicas is None else replicas
        self.rank = (dist.get_rank() if up else 0) if rank is None else rank
        draws = len(self.dataset)  # type: ignore[arg-type]
        if self.drop_last:
            self.num_samples = draws // self.num_replicas
        else:
            self.num_samples = math.ceil(draws / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas
