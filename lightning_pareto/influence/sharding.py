"""Several processes as one: split the samples, add the sums."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


class OtherProcessError(RuntimeError):
    """Another process failed, and this one cannot go on without it."""


@dataclass(frozen=True)
class Shard:
    """This process's part of the work.

    Attributes:
        index: number of this process, 0 ≤ index < count.
        count: number of processes. With more than one, the default process group must be up and every process must
            make the same calls.
        device: where collective operations happen, for instance ``"cuda"`` under NCCL.

    Example:
        >>> Shard(1, 3).range(8)
        range(2, 5)
    """

    index: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    def range(self, n: int) -> range:
        """Return this process's dataset indices: contiguous, without repeats or gaps over the processes."""
        return range(self.index * n // self.count, (self.index + 1) * n // self.count)

    def sum(self, tensor: Tensor, elements: int = 2**24) -> Tensor:
        """Sum a tensor over the processes, in blocks of at most ``elements``; returns it on its own device."""
        if self.count == 1:
            return tensor
        blocks = []
        for block in tensor.reshape(-1).split(elements):
            moved = block.to(self.device, copy=True)
            dist.all_reduce(moved)
            blocks.append(moved.to(tensor.device))
        return torch.cat(blocks).reshape(tensor.shape) if blocks else tensor

    @contextlib.contextmanager
    def agreement(self, stage: str) -> Iterator[None]:
        """Let every process leave the block with an error as soon as one does, so that none waits for ever.

        Args:
            stage: what is being done, for the error message.

        Raises:
            OtherProcessError: on the processes without an error of their own.
        """
        try:
            yield
        except Exception:
            self._failures(1)
            raise
        if self._failures(0):
            raise OtherProcessError(f"another process failed during the {stage}; its own error says why")

    def _failures(self, mine: int) -> int:
        return int(self.sum(torch.tensor([mine])))
