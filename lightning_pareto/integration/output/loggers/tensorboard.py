"""Logs to TensorBoard: figures as images, tables as Markdown, and the path of a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_pareto.integration.output.loggers.base import Cell, LoggerAdapter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TensorBoardAdapter(LoggerAdapter):
    """Logs to the tabs *Images* and *Text*.

    Args:
        logger: a TensorBoardLogger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Log an image."""
        self._logger.experiment.add_figure(name, figure, step, close=False)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Log a Markdown table."""
        lines = [_line(columns), _line(["---"] * len(columns)), *(_line([_text(x) for x in row]) for row in rows)]
        self._logger.experiment.add_text(name, "\n".join(lines), step)

    def html(self, name: str, path: Path, step: int) -> None:
        """Log the path of the page, because TensorBoard cannot show pages."""
        self._logger.experiment.add_text(name, f"The report: {path.resolve()}", step)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
