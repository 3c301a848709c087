"""Writes text and strict JSON to the standard output, and notes to the standard error."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from lightning_pareto.display.terminal import printable


def say(text: str) -> None:
    """Write a text and a line break to the standard output."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """Write a value as JSON to the standard output."""
    say(as_json(value))


def notify(message: str) -> None:
    """Write one line to the standard error."""
    sys.stderr.write(f"lightning-pareto: {one_line(message)}\n")


def as_json(value: Any, indent: int | None = 2) -> str:
    """Strict JSON in ASCII. Values that are not finite become null."""
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """Convert arrays, numbers and mappings to JSON types, and NaN and infinity to None."""
    if hasattr(value, "tolist"):  # arrays and their scalars
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def one_line(message: str) -> str:
    """A message in one line, without control characters."""
    return printable(" ".join(message.split()), longest=2000)
