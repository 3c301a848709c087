"""Reads samples without a trace in the dataset's own random generators."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

DEEPEST, MOST_PARTS = 5, 100
"""How deep objects are searched for generators, and how long the lists are that are searched."""


@contextlib.contextmanager
def unchanged(*datasets: Any) -> Iterator[None]:
    """Restore the states of the random generators that datasets hold, be it in a wrapped dataset or a transform.

    Nothing else is restored, since counters, caches and open files may belong together.
    """
    restore: list[Callable[[], None]] = []
    seen: dict[int, Any] = {}
    for dataset in datasets:
        _note(dataset, DEEPEST, seen, restore)
    try:
        yield
    finally:
        for each in restore:
            each()


def _note(value: Any, depth: int, seen: dict[int, Any], restore: list[Callable[[], None]]) -> None:
    """Note how to restore the generators within an object."""
    if id(value) in seen or depth < 0:
        return
    seen[id(value)] = value
    again = _restorer(value)
    if again is not None:
        restore.append(again)
    elif isinstance(value, (list, tuple)):
        for part in value[:MOST_PARTS]:
            _note(part, depth - 1, seen, restore)
    elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, (torch.Tensor, torch.nn.Module)):
        for part in list(vars(value).values()):
            _note(part, depth - 1, seen, restore)


def _restorer(value: Any) -> Callable[[], None] | None:
    """Function that restores the present state of a generator; None if it is none, or has no state."""
    if isinstance(value, np.random.Generator):
        state, bits = value.bit_generator.state, value.bit_generator
        return lambda: setattr(bits, "state", state)
    for kind, read, write in (
        (np.random.RandomState, "get_state", "set_state"),
        (random.Random, "getstate", "setstate"),
        (torch.Generator, "get_state", "set_state"),
    ):
        if isinstance(value, kind) and not isinstance(value, random.SystemRandom):
            kept = getattr(value, read)()
            return lambda: getattr(value, write)(kept)
    return None
