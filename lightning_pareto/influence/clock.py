"""Times passes over a dataset, batch by batch."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

T = TypeVar("T")


class Clock:
    """Times the batches of every stage that reports its progress."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = 0.0
        self.clear()

    def clear(self) -> None:
        """Forget all stages."""
        self.stages: list[str] = []
        self._seconds: dict[str, list[float]] = {}  # of each batch

    def __call__(self, stage: str, done: int, _total: int) -> None:
        """Note the time, as :data:`Progress`."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if done == 0:
            self.stages.append(stage)
        else:
            self._seconds.setdefault(stage, []).append(now - self._last)
        self._last = now

    def extrapolate(self, work: Callable[[], T], batches: Mapping[str, float]) -> tuple[T, float]:
        """Do some work, and return its result and the seconds that it takes with other numbers of batches by stage."""
        self.clear()
        start = time.perf_counter()
        result = work()
        rest = time.perf_counter() - start - sum(map(sum, self._seconds.values()))
        return result, rest + sum(self.per_batch(stage) * batches[stage] for stage in self.stages)

    def per_batch(self, stage: str) -> float:
        """Seconds that a batch of a stage takes once it runs."""
        found = self._seconds[stage]
        return min(found[1:] or found)
