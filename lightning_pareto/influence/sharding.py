"""Several processes as one: split the samples, add the sums."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_pareto.influence.memory import is_out_of_memory

T = TypeVar("T")


class OtherProcessError(RuntimeError):
    """Another process failed, and this one cannot go on without it."""


class LostProcessError(RuntimeError):
    """Another process has died, hangs, or cannot be reached any more."""


class OtherProcessMemoryError(OtherProcessError):
    """Another process ran out of memory."""


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

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of some items, dealt out in turn."""
        return items[self.index :: self.count]

    def sum(self, tensor: Tensor, elements: int = 2**24) -> Tensor:
        """Sum a tensor over the processes, in blocks of at most ``elements``; returns it on its own device."""
        if self.count == 1:
            return tensor
        blocks = []
        for block in tensor.reshape(-1).split(elements):
            moved = block.to(self.device, copy=True)
            _added_up(moved)
            blocks.append(moved.to(tensor.device))
        return torch.cat(blocks).reshape(tensor.shape) if blocks else tensor

    def from_first(self, text: str) -> str:
        """Give every process the text of the first one."""
        if self.count == 1:
            return text
        encoded = text.encode() if self.index == 0 else b""
        size = int(self.sum(torch.tensor([len(encoded)])))
        buffer = torch.zeros(size, dtype=torch.int64)
        buffer[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.int64)
        return bytes(self.sum(buffer).tolist()).decode()

    @contextlib.contextmanager
    def agreement(self, stage: str) -> Iterator[None]:
        """Let every process leave the block with an error as soon as one does, so that none waits for ever.

        One that hangs is waited for until the timeout of the process group.

        Args:
            stage: what is being done, for the error message.

        Raises:
            LostProcessError: if others have died, or hang.
            OtherProcessMemoryError: on the processes without an error of their own, if others only lack memory.
            OtherProcessError: if others failed otherwise; this one's own lack of memory matters no more then.
        """
        try:
            yield
        except LostProcessError as error:
            raise _during(stage, error) from error.__cause__
        except Exception as error:
            memory = is_out_of_memory(error)
            failures, _ = self._failures(stage, not memory, memory)
            if failures and memory:
                raise OtherProcessError(_SAYS_WHY.format(stage)) from error
            raise
        failures, lacks = self._failures(stage, False, False)
        if failures:
            raise OtherProcessError(_SAYS_WHY.format(stage))
        if lacks:
            raise OtherProcessMemoryError(f"another process ran out of memory during the {stage}")

    def _failures(self, stage: str, failed: bool, lacks_memory: bool) -> tuple[int, int]:
        """How many processes failed, and how many lack memory."""
        try:
            failures, lacks = self.sum(torch.tensor([int(failed), int(lacks_memory)])).tolist()
        except LostProcessError as error:
            raise _during(stage, error) from error.__cause__
        return failures, lacks


def _added_up(tensor: Tensor) -> None:
    """Add a tensor up over the processes, in place.

    A process that dies closes its connections, which ends the others' wait at once. One that hangs keeps them, and the
    process group's own timeout ends the wait, 30 minutes by default.

    Raises:
        LostProcessError: if the sum cannot be had.
    """
    try:
        dist.all_reduce(tensor)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        first = str(error).splitlines()[0]
        said = (first.rpartition("] ")[2] or first)[:160]
        if "timed out" in said.lower():
            raise LostProcessError(
                f"another process has not answered for as long as the process group waits ({said}): it hangs or was "
                "stopped. Its own log may say why; DDPStrategy(timeout=timedelta(minutes=5)) shortens the wait"
            ) from error
        raise LostProcessError(
            f"the connection to another process was lost ({said}): it was killed, for its memory perhaps, or its "
            "machine is away. Its own log, or that of the system, says why"
        ) from error


def _during(stage: str, error: LostProcessError) -> LostProcessError:
    """The error with the stage, the innermost of them."""
    text = str(error)
    return error if text.startswith("during the") else LostProcessError(f"during the {stage}: {text}")


_SAYS_WHY = "another process failed during the {}; its own error says why"
