"""Memory for intermediate results: reusable buffers, limits, and how to react when it runs out."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

MOST_ELEMENTS, FEWEST_ELEMENTS = 2**23, 2**12

PROC, CONTROL_GROUPS = Path("/proc"), Path("/sys/fs/cgroup")

_MEMORY_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Files of a control group's limit and use, and the part of the use that is a cache. Version 2 names no controller."""


class Scratch:
    """Named buffers that are reused from one call to the next.

    The operating system maps fresh memory page by page on first use. For large blocks that takes longer than the matrix
    product that fills them. So each name keeps its memory and returns it again.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def buffer(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """An uninitialised tensor with the dtype and device of ``like``. Overwrites the last one of the same name."""
        key, size = (name, like.dtype, like.device), math.prod(shape)
        if key not in self._blocks or self._blocks[key].numel() < size:
            self._blocks.pop(key, None)  # free the old block before allocating the new one
            self._blocks[key] = like.new_empty(size)
        return self._blocks[key][:size].view(*shape)

    def clear(self) -> None:
        """Free all buffers."""
        self._blocks.clear()


@dataclass
class Memory:
    """Limits that every pass observes. They shrink when memory runs out.

    Attributes:
        elements: most numbers in an intermediate result of one part of a batch.
        batch: most samples in a batch; None for the loader's batch size.
        scratch: buffers for those results; they hold two or three times as many numbers.
    """

    elements: int = MOST_ELEMENTS
    batch: int | None = None
    scratch: Scratch = field(default_factory=Scratch, repr=False)

    def halve(self, batch: int) -> bool:
        """Halve both limits, given the current batch size. Returns False if there is nothing left to halve."""
        batch = min(batch, self.batch or batch)
        if batch == 1 and self.elements <= FEWEST_ELEMENTS:
            return False
        self.batch, self.elements = max(1, batch // 2), max(FEWEST_ELEMENTS, self.elements // 2)
        self.scratch.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True


def most_elements(device: torch.device) -> int:
    """Limit of an intermediate result: what stays near a CPU's caches, and a sixtieth of a GPU's free memory.

    A GPU needs large parts. With the limit of a CPU, a pass over a ResNet-18 spent its time on starting small products.
    """
    if device.type != "cuda":
        return MOST_ELEMENTS
    return int(min(max(free_memory(device) / 240, MOST_ELEMENTS), 16 * MOST_ELEMENTS))


def free_memory(device: torch.device) -> float:
    """Free memory of a device in bytes, for all processes on it; infinite where it is not known."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        sizes = dict(line.split(":") for line in (PROC / "meminfo").read_text().splitlines())
        return max(0.0, min(float(sizes["MemAvailable"].split()[0]) * 2**10, _free_in_control_groups()))
    except (OSError, KeyError):
        return math.inf


def _free_in_control_groups() -> float:
    """What the limits of containers and batch systems leave to this process, in bytes; infinite without limits."""
    free = math.inf
    for line in (PROC / "self/cgroup").read_text().splitlines():
        _, controller, path = line.split(":", 2)
        group = CONTROL_GROUPS / controller / path.strip("/")
        limit, used, cache = _MEMORY_FILES.get(controller, ("", "", ""))
        for folder in (group, *group.parents) if limit else ():
            with contextlib.suppress(OSError, KeyError, ValueError):  # no such group, or no limit
                statistics = dict(each.split() for each in (folder / "memory.stat").read_text().splitlines())
                taken = int((folder / used).read_text()) - int(statistics[cache])
                free = min(free, int((folder / limit).read_text()) - taken)
    return free


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and ("allocate memory" in str(error) or "out of memory" in str(error))
