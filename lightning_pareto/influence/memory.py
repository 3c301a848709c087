"""Limits on the memory in use, and how to react when it runs out."""

from dataclasses import dataclass, field

import torch

from lightning_pareto.influence.scratch import Scratch

MIN_ELEMENTS = 2**12


@dataclass
class Memory:
    """Limits that every pass observes. They shrink when memory runs out.

    Attributes:
        elements: most numbers in an intermediate result of one part of a batch.
        batch: most samples in a batch; None for the loader's batch size.
        scratch: buffers for those results; they hold two or three times as many numbers.
    """

    elements: int = 2**23
    batch: int | None = None
    scratch: Scratch = field(default_factory=Scratch, repr=False)

    def halve(self, batch: int) -> bool:
        """Halve both limits, given the current batch size. Returns False if there is nothing left to halve."""
        batch = min(batch, self.batch or batch)
        if batch == 1 and self.elements <= MIN_ELEMENTS:
            return False
        self.batch, self.elements = max(1, batch // 2), max(MIN_ELEMENTS, self.elements // 2)
        self.scratch.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and ("allocate memory" in str(error) or "out of memory" in str(error))
