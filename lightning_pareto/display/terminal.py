"""Text that fits a terminal and does nothing else to it."""

import unicodedata
from collections.abc import Iterable

WIDTH = 80

LONGEST_NAME = 24


def harmless(name: str, longest: int = LONGEST_NAME) -> str:
    """A name without anything that a terminal obeys (escape sequences, line breaks, marks of direction), and short.

    Every such character becomes ``?``; a name of more than ``longest`` columns ends in ``…``.
    """
    name = harmless_line(name)
    if columns(name) <= longest:
        return name
    while columns(name) > longest - 1:
        name = name[:-1]
    return name + "…"


def harmless_line(text: str) -> str:
    """A text of any length without anything that a terminal obeys."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def columns(text: str) -> int:
    """Columns that a terminal gives to a text: two for wide letters, none for combining marks."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def padded(name: str, width: int) -> str:
    """The name with spaces after it, to ``width`` columns."""
    return name + " " * max(width - columns(name), 0)


def paragraph(text: str, indent: str = "") -> list[str]:
    """The text in lines of at most 80 columns, those after the first one indented."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1].strip() else lines[-1] + word
        if columns(longer) <= WIDTH or not lines[-1].strip():
            lines[-1] = longer
        else:
            lines.append(indent + word)
    return lines


def listed(names: Iterable[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    names = [harmless(name) for name in names]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
