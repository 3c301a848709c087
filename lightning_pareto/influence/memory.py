"""How much is held in memory at once, and what to do when that is too much."""

from dataclasses import dataclass, field

import torch

from lightning_pareto.influence.scratch import Scratch

LEAST_ELEMENTS = 2**12


@dataclass
class Memory:
    """Limits that the passes keep to, and that shrink when memory runs out.

    Attributes:
        elements: most numbers of an intermediate result of one part of a batch.
        batch: most samples of a batch, None for the loader's own number.
        scratch: room for those results, two or three times as many numbers.
    """

    elements: int = 2**23
    batch: int | None = None
    scratch: Scratch = field(default_factory=Scratch, repr=False)

    def halve(self, batch: int) -> bool:
        """Take half of both; False if there is nothing left to halve.

        Args:
            batch: samples of a batch so far.
        """
        batch = min(batch, self.batch or batch)
        if batch == 1 and self.elements <= LEAST_ELEMENTS:
            return False
        self.batch, self.elements = max(1, batch // 2), max(LEAST_ELEMENTS, self.elements // 2)
        self.scratch.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on a GPU or a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and ("allocate memory" in str(error) or "out of memory" in str(error))
