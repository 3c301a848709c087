"""What a logger can be asked to show besides metrics."""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | float | bool | None
"""Of a table; None where there is no value."""


class LoggerAdapter(ABC):
    """Shows figures, tables and HTML pages with one logger; whatever the logger raises is let through.

    Names may have slashes. ``step`` is that of the trainer.
    """

    @abstractmethod
    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Show a figure of matplotlib."""

    @abstractmethod
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Show a table."""

    @abstractmethod
    def html(self, name: str, path: Path, step: int) -> None:
        """Show a page that stands in one file."""


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table as CSV text, with empty cells where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
