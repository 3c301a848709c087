"""Reusable memory for intermediate results."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Scratch:
    """Named buffers that are reused from one call to the next.

    The operating system maps fresh memory page by page on first use. For large blocks that takes longer than the matrix
    product that fills them. So each name keeps its memory and returns it again.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def buffer(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """An uninitialised tensor of this shape, with the dtype and device of ``like``.

        It overwrites the tensor returned for the same name before.
        """
        key, size = (name, like.dtype, like.device), math.prod(shape)
        if key not in self._blocks or self._blocks[key].numel() < size:
            self._blocks.pop(key, None)  # free the old block before allocating the new one
            self._blocks[key] = like.new_empty(size)
        return self._blocks[key][:size].view(*shape)

    def clear(self) -> None:
        """Free all buffers."""
        self._blocks.clear()
