"""A sampler that draws each sample as often as its weight says, to within one draw."""

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

_BLOCK = 2**16  # draws converted to Python integers at a time


def systematic_draws(weights: npt.NDArray[np.float64], generator: torch.Generator) -> npt.NDArray[np.integer[Any]]:
    """Draw one shuffled epoch by systematic resampling.

    Let C be the cumulative sum of the weights over a random permutation, and u uniform in [0, 1). Sample i is drawn
    ``⌊C_i + u⌋ − ⌊C_{i−1} + u⌋`` times. This count has mean exactly w_i and always stays within one of w_i. Without
    the permutation, the counts of neighbours would be correlated. A second permutation shuffles the draws.

    The weights, (N,), must be ≥ 0 with an integer sum. Returns Σw sample indices, as int32 where they fit, to save
    memory.
    """
    n, total = len(weights), round(weights.sum())
    integer = torch.int32 if max(n, total) < 2**31 else torch.int64
    order = torch.randperm(n, generator=generator, dtype=integer)
    cumulative = torch.from_numpy(weights).index_select(0, order).cumsum(0).numpy()
    np.minimum(cumulative, total, out=cumulative)
    cumulative[-1] = total  # remove the rounding error of the sum
    # Rounding must not change ⌊C + u⌋ where C is an integer, so u keeps clear of 0 and 1.
    cumulative += 2**-20 + float(torch.rand((), dtype=torch.float64, generator=generator)) * (1 - 2**-19)
    floors = cumulative.astype(order.numpy().dtype)
    draws = torch.from_numpy(np.repeat(order.numpy(), np.diff(floors, prepend=floors.dtype.type(0))))
    return np.asarray(draws.index_select(0, torch.randperm(total, generator=generator, dtype=integer)).numpy())


class ParetoSampler(DistributedSampler[int]):
    """Draws dataset indices in proportion to their weights, in a new random order each epoch.

    Lightning uses the sampler as it is and calls ``set_epoch``, because it is a ``DistributedSampler``. An epoch has
    Σw draws, rounded. Weights of mean 1 give epochs of ordinary length, and w ≡ 1 gives an ordinary shuffled epoch.
    With several replicas, the draws are dealt out in turn. As in ``DistributedSampler``, some draws are repeated or
    dropped to give all replicas the same number. Ten million weights take about a second per epoch, and N is not
    limited.

    Args:
        weights: one weight per dataset index, (N,).
        num_replicas: number of processes. By default, the size of the process group during iteration, or 1 without one.
        rank: index of this process. By default, its rank in the process group, or 0 without one.
        seed: random seed, the same on all processes.
        drop_last: drop the draws that do not divide evenly among the replicas, instead of repeating some.

    Raises:
        ValueError: if the weights are negative, not finite or all zero, or if the seed is not an integer ≥ 0.

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
        checked_count(seed, "seed must be an integer ≥ 0, the same on all processes")
        values = weights.values
        draws = max(1, round(values.sum()))
        self._requested = (num_replicas, rank)
        super().__init__(
            range(draws),  # type: ignore[arg-type]  # only its length is used
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
        self._resolve_replicas()
        return self.num_samples

    def __iter__(self) -> Iterator[Any]:
        self._resolve_replicas()
        skipped, self._skipped = self._skipped, 0
        draws = systematic_draws(self._scaled, torch.Generator().manual_seed(_combined(self.seed, self.epoch)))
        if len(draws) < self.total_size:
            draws = np.resize(draws, self.total_size)
        mine = draws[self.rank : self.total_size : self.num_replicas][skipped:].copy()
        return chain.from_iterable(mine[i : i + _BLOCK].tolist() for i in range(0, len(mine), _BLOCK))

    def skip(self, draws: int) -> None:
        """Skip this replica's first ``draws`` draws in the next iteration, to resume an interrupted epoch.

        Later iterations and the length are not affected.
        """
        self._skipped = draws

    def _resolve_replicas(self) -> None:
        """Read the process group as late as possible: samplers are often built before the processes start."""
        up = dist.is_available() and dist.is_initialized()
        replicas, rank = self._requested
        self.num_replicas = (dist.get_world_size() if up else 1) if replicas is None else replicas
        self.rank = (dist.get_rank() if up else 0) if rank is None else rank
        draws, n = len(self.dataset), self.num_replicas  # type: ignore[arg-type]
        self.num_samples = draws // n if self.drop_last else math.ceil(draws / n)
        self.total_size = self.num_samples * n


def _combined(seed: int, epoch: int) -> int:
    """Hash seed and epoch into one seed, so that nearby pairs do not share draws (as seed + epoch would)."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1))
