"""Systematic resampling: every sample drawn as often as its weight says, within one."""

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler

from lightning_pareto.arguments import checked_count
from lightning_pareto.reweighting.weights import SampleWeights

_BLOCK = 2**16  # draws turned into Python integers at a time


def systematic_draws(weights: npt.NDArray[np.float64], generator: torch.Generator) -> npt.NDArray[np.integer[Any]]:
    """Draw one epoch in a random order.

    With C the cumulative sum of the weights over a random order and u uniform in [0, 1), sample i is drawn
    ``⌊C_i + u⌋ − ⌊C_{i−1} + u⌋`` times: its mean is exactly w_i and it is within one of w_i. The random order keeps
    neighbours from being tied to each other; a second one shuffles the draws.

    Args:
        weights: (N,) weights ≥ 0 with an integer sum.
        generator: source of the orders and of u.

    Returns:
        As many sample indices as the weights sum to; int32 where they fit, to save memory.
    """
    n, total = len(weights), round(weights.sum())
    integer = torch.int32 if max(n, total) < 2**31 else torch.int64
    order = torch.randperm(n, generator=generator, dtype=integer)
    cumulative = torch.from_numpy(weights).index_select(0, order).cumsum(0).numpy()
    np.minimum(cumulative, total, out=cumulative)
    cumulative[-1] = total  # exact, whatever the rounding of the sum
    # An integer cumulative sum must floor to itself plus u's part whatever the rounding: u stays clear of 0 and 1.
    cumulative += 2**-20 + float(torch.rand((), dtype=torch.float64, generator=generator)) * (1 - 2**-19)
    floors = cumulative.astype(order.numpy().dtype)
    draws = torch.from_numpy(np.repeat(order.numpy(), np.diff(floors, prepend=floors.dtype.type(0))))
    shuffled: npt.NDArray[np.integer[Any]]
    shuffled = draws.index_select(0, torch.randperm(total, generator=generator, dtype=integer)).numpy()
    return shuffled


class ParetoSampler(DistributedSampler[int]):
    """Draws an epoch of dataset indices by systematic resampling, shuffled anew every epoch.

    Being a ``DistributedSampler``, it is used by Lightning as it is and told of every epoch. An epoch has Σw draws
    (rounded), as long as an ordinary one for weights of mean 1; with w ≡ 1 it *is* an ordinary shuffled epoch. Over
    several replicas the draws are dealt out in turn; the last ones are repeated or dropped to make the replicas even,
    as ``DistributedSampler`` does. Ten million weights take about a second per epoch, and N may be of any size.

    Args:
        weights: weights of the dataset's indices, (N,).
        num_replicas: number of processes; by default that of the process group when it is iterated, else 1.
        rank: this process; likewise.
        seed: the same on all processes.
        drop_last: drop the draws that do not divide over the replicas instead of repeating some.

    Raises:
        ValueError: if the weights are negative, not finite or all zero, or the seed is no whole number.

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
        checked_count(seed, "seed must be a whole number ≥ 0, the same on all processes")
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
        self._skipped = 0

    def __len__(self) -> int:
        self._follow_process_group()
        return self.num_samples

    def __iter__(self) -> Iterator[Any]:
        self._follow_process_group()
        skipped, self._skipped = self._skipped, 0
        draws = systematic_draws(self._scaled, torch.Generator().manual_seed(_mixed(self.seed, self.epoch)))
        if len(draws) < self.total_size:
            draws = np.resize(draws, self.total_size)
        mine = draws[self.rank : self.total_size : self.num_replicas][skipped:].copy()
        return chain.from_iterable(mine[i : i + _BLOCK].tolist() for i in range(0, len(mine), _BLOCK))

    def skip(self, draws: int) -> None:
        """Begin the next iteration after so many draws of this replica: the rest of an interrupted epoch.

        It holds for one iteration, and leaves the length as it is.
        """
        self._skipped = draws

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


def _mixed(seed: int, epoch: int) -> int:
    """One seed of two, so that no other pair of seed and epoch near it gives the same draws."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1))
