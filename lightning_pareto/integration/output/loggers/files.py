"""Writes files, for loggers that have a folder but show nothing."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pareto.integration.output.loggers.base import Cell, LoggerAdapter, as_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FileAdapter(LoggerAdapter):
    """Writes PNG, CSV and HTML files into a folder. Later steps overwrite them.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def figure(self, name: str, figure: "Figure", step: int) -> None:  # noqa: ARG002
        """Write ``<name>.png``."""
        figure.savefig(self._path(name, ".png"), dpi=150)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:  # noqa: ARG002
        """Write ``<name>.csv``."""
        self._path(name, ".csv").write_text(as_csv(columns, rows), encoding="utf-8")

    def html(self, name: str, path: Path, step: int) -> None:  # noqa: ARG002
        """Copy the page to ``<name>.html``, unless it is already there."""
        target = self._path(name, ".html")
        if target.resolve() != path.resolve():
            shutil.copyfile(path, target)

    def _path(self, name: str, suffix: str) -> Path:
        path = self._folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
