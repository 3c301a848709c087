"""Splits work over several processes: shares of the samples, sums over processes, and errors that reach all of them."""

import contextlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_pareto.influence.memory import is_out_of_memory

T = TypeVar("T")


class OtherProcessError(RuntimeError):
    """Another process failed, and this one cannot continue without it."""


class LostProcessError(RuntimeError):
    """Another process died, hangs, or can no longer be reached."""


class OtherProcessMemoryError(OtherProcessError):
    """Another process ran out of memory."""


@dataclass(frozen=True)
class Shard:
    """This process's part of the work.

    Attributes:
        index: number of this process, 0 ≤ index < count.
        count: number of processes. With more than one, the default process group must be initialised, and every process
            must make the same calls.
        device: where collective operations run, for instance ``"cuda"`` under NCCL.

    Example:
        >>> Shard(1, 3).range(8)
        range(2, 5)
    """

    index: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    def range(self, n: int) -> range:
        """This process's dataset indices: contiguous, and over all processes without overlap or gaps."""
        return range(self.index * n // self.count, (self.index + 1) * n // self.count)

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of some items, dealt out in turn."""
        return items[self.index :: self.count]

    def sum(self, tensor: Tensor, elements: int = 2**24) -> Tensor:
        """Sum a tensor over the processes, in blocks of at most ``elements`` numbers. Returns it on its own device."""
        if self.count == 1:
            return tensor
        blocks = []
        for block in tensor.reshape(-1).split(elements):
            moved = block.to(self.device, copy=True)
            _all_reduce(moved)
            blocks.append(moved.to(tensor.device))
        return torch.cat(blocks).reshape(tensor.shape)

    def all(self, condition: bool) -> bool:
        """Whether the condition holds on every process."""
        return int(self.sum(torch.tensor(int(condition)))) == self.count

    @property
    def on_one_machine(self) -> int:
        """Number of processes on the first one's machine. All machines are taken to have as many."""
        name = platform.node()
        return int(self.sum(torch.tensor(int(name == self.from_first(name)))))

    def from_first(self, text: str) -> str:
        """Return the first process's text on every process."""
        encoded = text.encode() if self.index == 0 else b""
        size = int(self.sum(torch.tensor(len(encoded))))
        padded = torch.tensor(list(encoded.ljust(size, b"\0")), dtype=torch.int64)
        return bytes(self.sum(padded).tolist()).decode()

    @contextlib.contextmanager
    def agreement(self, stage: str) -> Iterator[None]:
        """Raise an error on every process as soon as one of them fails in the block, so that none waits forever.

        A process that hangs is waited for until the process group's timeout. Errors name the ``stage``.

        Raises:
            LostProcessError: if another process died or hangs.
            OtherProcessMemoryError: on processes without an error of their own, if others only ran out of memory.
            OtherProcessError: if another process failed in any other way. This takes precedence over an out-of-memory
                error on this process.
        """
        failed = f"another process failed during the {stage}; see its own error for the reason"
        with _naming(stage):
            try:
                yield
            except LostProcessError:
                raise
            except Exception as error:
                memory = is_out_of_memory(error)
                failures, _ = self.sum(torch.tensor([int(not memory), int(memory)])).tolist()
                if failures and memory:
                    raise OtherProcessError(failed) from error
                raise
            failures, out_of_memory = self.sum(torch.tensor([0, 0])).tolist()
        if failures:
            raise OtherProcessError(failed)
        if out_of_memory:
            raise OtherProcessMemoryError(f"another process ran out of memory during the {stage}")


def _all_reduce(tensor: Tensor) -> None:
    """Sum a tensor over the processes, in place.

    A process that dies closes its connections, which ends the wait of the others at once. One that hangs keeps them
    open, so the wait ends with the process group's timeout, 30 minutes by default.
    """
    try:
        dist.all_reduce(tensor)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        first = str(error).splitlines()[0]
        reason = (first.rpartition("] ")[2] or first)[:160]
        text = (
            f"another process did not answer within the process group's timeout ({reason}): it hangs or was stopped. "
            "Check its log. To wait less, pass DDPStrategy(timeout=timedelta(minutes=5))"
            if "timed out" in reason.lower()
            else f"the connection to another process was lost ({reason}): it was killed, perhaps for lack of memory, "
            "or its machine is down. Check its log, or the system log"
        )
        raise LostProcessError(text) from error


@contextlib.contextmanager
def _naming(stage: str) -> Iterator[None]:
    """Name the stage when another process is lost, unless an inner block did so already."""
    try:
        yield
    except LostProcessError as error:
        if str(error).startswith("during the"):
            raise
        raise LostProcessError(f"during the {stage}: {error}") from error.__cause__
