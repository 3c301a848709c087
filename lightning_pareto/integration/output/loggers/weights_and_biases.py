"""Logs to Weights & Biases."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_pareto.integration.output.loggers.base import Cell, LoggerAdapter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class WandbAdapter(LoggerAdapter):
    """Logs to panels of the run, at the trainer's step.

    Args:
        logger: a WandbLogger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Log an image."""
        self._logger.log_image(name, [figure], step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Log a table."""
        self._logger.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)

    def html(self, name: str, path: Path, step: int) -> None:
        """Log the page."""
        import wandb

        page = wandb.Html(io.StringIO(path.read_text(encoding="utf-8")), inject=False)
        self._logger.log_metrics({name: page}, step=step)
