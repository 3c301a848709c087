"""Validation of options that must be numbers and of lists of names."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any


def checked_number(value: Any, what: str, allowed: Callable[[Any], bool] = math.isfinite) -> float:
    """Return ``value`` as a float if it is a finite number that is allowed.

    Args:
        value: the user's value.
        what: what the option must be; the error message begins with it.
        allowed: whether a finite number is in the option's range.

    Raises:
        ValueError: otherwise.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not (math.isfinite(value) and allowed(value)):
        raise ValueError(f"{what}, found {value!r}")
    return float(value)


def checked_count(value: Any, what: str, least: int = 0) -> int:
    """Return ``value`` if it is an integer ≥ ``least``; see :func:`checked_number`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what}, found {value!r}")
    return int(value)


def checked_names(names: Sequence[Any], what: str = "class_names") -> tuple[str, ...]:
    """Return the names as strings.

    Raises:
        ValueError: if ``names`` is a single string or contains duplicates.
    """
    if isinstance(names, str) or len(set(map(str, names))) != len(names):
        raise ValueError(f"{what} must be a list of different names, found {names!r}")
    return tuple(map(str, names))
