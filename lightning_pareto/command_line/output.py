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


def notify(message: str) -> None:
    """Write a message as one line without control characters to the standard error."""
    sys.stderr.write(f"lightning-pareto: {printable(' '.join(message.split()), longest=2000)}\n")


def as_json(value: Any) -> str:
    """Strict JSON in ASCII. Values that are not finite become null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """Convert arrays, numbers and mappings to JSON types, and NaN and infinity to None."""
    if hasattr(value, "tolist"):  # arrays and their scalars
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
