"""Logs figures, tables and HTML pages with the loggers that can show them, one adapter for each kind of logger."""

import csv
import io
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_pareto.integration.trainer.namespaces import is_a

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | float | bool | None
"""A cell of a table. None is a missing value."""

Rows = Sequence[Sequence[Cell]]


class LoggerAdapter(ABC):
    """Logs figures, tables and HTML pages with one logger. Errors of the logger are not caught.

    Names may contain slashes. ``step`` is the trainer's step.
    """

    @abstractmethod
    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Log a matplotlib figure."""

    @abstractmethod
    def table(self, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        """Log a table."""

    @abstractmethod
    def html(self, name: str, path: Path, step: int) -> None:
        """Log a self-contained HTML page."""


def adapter_for(logger: Any) -> LoggerAdapter | None:
    """Return the adapter that logs figures, tables and pages with this logger, or None if it cannot.

    TensorBoard, Weights & Biases and MLflow show them. For any other logger with a folder for the run (``log_dir``),
    such as CSVLogger, files are written there. A logger without such a folder only gets metrics.

    Args:
        logger: a Lightning logger of either namespace, or your own.
    """
    if is_a(logger, TensorBoardLogger):
        return TensorBoardAdapter(logger)
    if is_a(logger, WandbLogger):
        return WandbAdapter(logger)
    if is_a(logger, MLFlowLogger):
        return MLFlowAdapter(logger)
    folder = getattr(logger, "log_dir", None)
    return FileAdapter(folder) if isinstance(folder, str) else None


class TensorBoardAdapter(LoggerAdapter):
    """Images, Markdown tables, and the path of a page, because TensorBoard cannot show pages."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """See :class:`LoggerAdapter`."""
        self._logger.experiment.add_figure(name, figure, step, close=False)

    def table(self, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        """See :class:`LoggerAdapter`."""
        lines = [columns, ["---"] * len(columns), *([_text(cell) for cell in row] for row in rows)]
        self._logger.experiment.add_text(name, "\n".join(map(_markdown, lines)), step)

    def html(self, name: str, path: Path, step: int) -> None:
        """See :class:`LoggerAdapter`."""
        self._logger.experiment.add_text(name, f"The report: {path.resolve()}", step)


class WandbAdapter(LoggerAdapter):
    """Panels of the run at the trainer's step."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """See :class:`LoggerAdapter`."""
        self._logger.log_image(name, [figure], step=step)

    def table(self, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        """See :class:`LoggerAdapter`."""
        self._logger.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)

    def html(self, name: str, path: Path, step: int) -> None:
        """See :class:`LoggerAdapter`."""
        import wandb

        page = wandb.Html(io.StringIO(path.read_text(encoding="utf-8")), inject=False)
        self._logger.log_metrics({name: page}, step=step)


class MLFlowAdapter(LoggerAdapter):
    """PNG, CSV and HTML artifacts, which MLflow shows. Its own tables would need pandas."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """See :class:`LoggerAdapter`."""
        self._logger.experiment.log_figure(self._logger.run_id, figure, f"{name}.png")

    def table(self, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        """See :class:`LoggerAdapter`."""
        self._logger.experiment.log_text(self._logger.run_id, _csv(columns, rows), f"{name}.csv")

    def html(self, name: str, path: Path, step: int) -> None:
        """See :class:`LoggerAdapter`."""
        self._logger.experiment.log_text(self._logger.run_id, path.read_text(encoding="utf-8"), f"{name}.html")


class FileAdapter(LoggerAdapter):
    """PNG, CSV and HTML files in the folder of the run. Later steps overwrite them."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """See :class:`LoggerAdapter`."""
        figure.savefig(self._path(f"{name}.png"), dpi=150)

    def table(self, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        """See :class:`LoggerAdapter`."""
        self._path(f"{name}.csv").write_text(_csv(columns, rows), encoding="utf-8")

    def html(self, name: str, path: Path, step: int) -> None:
        """See :class:`LoggerAdapter`."""
        target = self._path(f"{name}.html")
        if target.resolve() != path.resolve():
            shutil.copyfile(path, target)

    def _path(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _csv(columns: Sequence[str], rows: Rows) -> str:
    """A table as CSV text. Missing values are empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
