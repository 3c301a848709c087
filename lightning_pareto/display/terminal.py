"""Text for a terminal of 80 columns, in which names from a data set cannot do any harm."""

import textwrap
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal

from tqdm.utils import disp_len, disp_trim

WIDTH = 80

NO_BREAK = "\u00a0"
"""A space at which no line is broken. It is printed as an ordinary one."""


def printable(name: str, longest: int = 24) -> str:
    """A name without escape sequences, line breaks or direction marks, at most ``longest`` columns wide.

    Each such character becomes ``?``. A longer name is cut and ends in ``…``.
    """
    name = printable_line(name)
    return name if disp_len(name) <= longest else disp_trim(name, longest - 1) + "…"


def printable_line(text: str) -> str:
    """A text of any length with ``?`` for every character that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in unicodedata.normalize("NFC", text))


def wrapped(*paragraphs: str) -> list[str]:
    """The paragraphs in lines of at most 80 columns. An empty one is an empty line."""
    parts = (textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False) for text in paragraphs)
    return [line.replace(NO_BREAK, " ") for lines in parts for line in lines or [""]]


def listed(names: Iterable[str], most: int = 6, longest: int = 24) -> str:
    """The first names, each at most ``longest`` columns wide, and how many more there are."""
    names = [printable(name, longest) or repr(name) for name in names]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def text_table(columns: Mapping[str, Sequence[str]], left: Collection[str] = ()) -> list[str]:
    """Lines of a table from cells by heading.

    The first column and those with a heading in ``left`` are aligned to the left, the others to the right.
    """
    padded: list[list[str]] = []
    for heading, column in columns.items():
        cells = [heading, *map(str, column)]
        width = max(map(disp_len, cells))
        gaps = [" " * (width - disp_len(cell)) for cell in cells]
        right = padded and heading not in left
        padded.append([gap + cell if right else cell + gap for cell, gap in zip(cells, gaps, strict=True)])
    return ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]


def significant(value: float, digits: int = 2) -> str:
    """A number rounded to some significant digits and written without an exponent: 410, 0.021."""
    return f"{Decimal(f'{value:.{digits}g}'):f}"


def rounded(count: int) -> str:
    """A large number in words: 1.2 million."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if count >= unit:
            return f"{significant(count / unit, 3)} {name}"
    return f"{count:,}"


def gibibytes(size: float) -> str:
    """A size of memory in GiB."""
    return f"{significant(size, 3)} GiB" if size >= 0.01 else "less than 0.01 GiB"


def duration(seconds: float) -> str:
    """A duration in its largest unit: 1.5 h."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{significant(seconds / unit)} {name}"
    return f"{significant(seconds)} s"
