"""Lightning under its two names, ``lightning.pytorch`` and ``pytorch_lightning``, whose classes are not related.

This package is written against the first. A project that imports the second has Trainers, modules and callbacks that
look the same but that ``isinstance`` does not recognise.
"""

import importlib
import sys
from typing import Any, TypeGuard, TypeVar

T = TypeVar("T")

_NAMES = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}

_OTHERS = tuple(f"{name}." for name in _NAMES.values())


def is_a(value: Any, *kinds: type[T]) -> TypeGuard[T]:
    """``isinstance`` under either name.

    Args:
        value: anything.
        kinds: classes of ``lightning``.
    """
    if isinstance(value, kinds):
        return True
    others = (getattr(sys.modules.get(_other_module(kind)), kind.__name__, None) for kind in kinds)
    return isinstance(value, tuple(kind for kind in others if kind is not None))


def counterpart(kind: type[T], like: Any) -> type[T]:
    """The class of this name in the namespace that ``like`` comes from.

    Args:
        kind: a class of ``lightning``.
        like: a Trainer, module, DataModule or similar, whose class decides.
    """
    if not any(base.__module__.startswith(_OTHERS) for base in type(like).__mro__):
        return kind
    other: type[T] = getattr(importlib.import_module(_other_module(kind)), kind.__name__)
    return other


def _other_module(kind: type) -> str:
    """Module of the class under the other name; its own module if it is not a class of Lightning."""
    name = kind.__module__
    for ours, other in _NAMES.items():
        if name == ours or name.startswith(ours + "."):
            return other + name.removeprefix(ours)
    return name
