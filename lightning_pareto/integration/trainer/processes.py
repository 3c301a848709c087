"""The trainer's processes: how they share the work, which of them warns, and how they pass a message."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_pareto.display.warning import warn
from lightning_pareto.influence.sharding import Shard

rank_zero_warn = rank_zero_only(warn)
"""Warn on rank zero only."""


def shard_of(trainer: pl.Trainer, module: pl.LightningModule) -> Shard:
    """This process's part of the work."""
    return Shard(trainer.global_rank, trainer.world_size, module.device)


@contextlib.contextmanager
def warnings_on_rank_zero(trainer: pl.Trainer) -> Iterator[None]:
    """Silence warnings on all processes but rank zero."""
    with warnings.catch_warnings():
        if not trainer.is_global_zero:
            warnings.simplefilter("ignore")
        yield


class SharedMessage:
    """One text and a count of fits in shared memory, which survive ``ddp_spawn`` and ``ddp_fork``.

    Those strategies train in other processes, and whatever a callback learns there is lost to the original. PyTorch
    passes shared tensors to other processes by reference.
    """

    _SIZE = 4096

    def __init__(self) -> None:
        self._bytes = torch.zeros(self._SIZE, dtype=torch.uint8).share_memory_()
        self._fits = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share the memory of a copy made by pickle or ``deepcopy``, which has its own tensors."""
        self.__dict__.update(state)
        for tensor in (self._bytes, self._fits):
            tensor.share_memory_()

    @property
    def fits(self) -> int:
        """Number of fits that have begun, in whatever process."""
        return int(self._fits)

    def begin_fit(self) -> None:
        """Remove the message of the previous fit. Exactly one of the processes that share the memory must call it."""
        self.clear()
        self._fits += 1

    def put(self, text: str) -> None:
        """Replace the message.

        Raises:
            ValueError: if it is longer than 4,095 bytes.
        """
        encoded = text.encode()
        if len(encoded) >= self._SIZE:
            raise ValueError(f"a path of {len(encoded)} bytes is too long")
        self.clear()
        self._bytes[: len(encoded)] = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)

    def get(self) -> str:
        """The message; empty if there is none."""
        return bytes(self._bytes.tolist()).rstrip(b"\0").decode()

    def clear(self) -> None:
        """Remove the message."""
        self._bytes.zero_()
