"""A short message from the processes that a strategy spawns back to the one that holds the callback."""

from typing import Any

import torch


class Mailbox:
    """Holds one text and a count of fits in shared memory, so that they survive ``ddp_spawn`` and ``ddp_fork``.

    Those strategies train in other processes, and whatever a callback learns there is lost to its original. PyTorch's
    shared tensors travel to the other processes by reference.
    """

    _SIZE = 4096

    def __init__(self) -> None:
        self._bytes = torch.zeros(self._SIZE, dtype=torch.uint8).share_memory_()
        self._fits = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share the memory of a copy, as a copy made by pickle or ``deepcopy`` has its own."""
        self.__dict__.update(state)
        for tensor in (self._bytes, self._fits):
            tensor.share_memory_()

    @property
    def fits(self) -> int:
        """Number of fits that have begun, in whatever process."""
        return int(self._fits)

    def begin_fit(self) -> None:
        """Remove the message of the fit before. One process of those that share the memory has to call it."""
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
        """Return the message, empty if there is none."""
        return bytes(self._bytes.tolist()).rstrip(b"\0").decode()

    def clear(self) -> None:
        """Remove the message."""
        self._bytes.zero_()
