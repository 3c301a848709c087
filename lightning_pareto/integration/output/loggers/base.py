"""Base class for logging figures, tables and pages."""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | float | bool | None
"""A cell of a table. None is a missing value."""


class LoggerAdapter(ABC):
    """Logs figures, tables and HTML pages with one logger. Errors of the logger are not caught.

    Names may contain slashes. ``step`` is the trainer's step.
    """

    @abstractmethod
    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Log a matplotlib figure."""

    @abstractmethod
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Log a table."""

    @abstractmethod
    def html(self, name: str, path: Path, step: int) -> None:
        """Log a self-contained HTML page."""


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table as CSV text. Missing values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
