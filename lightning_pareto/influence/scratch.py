"""Memory for intermediate results that is used again and again."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Scratch:
    """Room for intermediate results that are done with before the next of the same name is asked for.

    Large blocks of new memory are mapped by the operating system page by page on first use, which takes longer than the
    matrix product that fills them. So each name keeps its block and hands it out again.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def room(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """An uninitialised tensor of this shape, with the type and device of ``like``.

        Whatever was handed out under the name before is overwritten.
        """
        key, size = (name, like.dtype, like.device), math.prod(shape)
        if key not in self._blocks or self._blocks[key].numel() < size:
            self._blocks.pop(key, None)  # before the new one is there
            self._blocks[key] = like.new_empty(size)
        return self._blocks[key][:size].view(*shape)

    def clear(self) -> None:
        """Give all of it back."""
        self._blocks.clear()
