"""A short message from the processes that a strategy spawns back to the one that holds the callback."""

import torch


class Mailbox:
    """Holds one text in shared memory, so that it survives ``ddp_spawn`` and ``ddp_fork``.

    Those strategies train in other processes, and whatever a callback learns there is lost to its original. PyTorch's
    shared tensors travel to the other processes by reference.
    """

    _SIZE = 4096

    def __init__(self) -> None:
        self._bytes = torch.zeros(self._SIZE, dtype=torch.uint8).share_memory_()

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
