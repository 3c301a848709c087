"""Text and strict JSON, to the terminal or a file."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any


def say(text: str) -> None:
    """Write a text and a line break to the standard output."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """Write a value as JSON to the standard output."""
    say(as_json(value))


def tell(message: str) -> None:
    """Write one line to the standard error."""
    sys.stderr.write(f"lightning-pareto: {one_line(message)}\n")


def as_json(value: Any, indent: int | None = 2) -> str:
    """Strict JSON in ASCII: what is not finite becomes null."""
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """Arrays, numbers and mappings as JSON has them; NaN and infinity as None."""
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
    """A message in one line that a terminal shows and does not obey."""
    from lightning_pareto.display.terminal import printable  # only now, as it brings torch with it

    return printable(" ".join(message.split()), longest=2000)
