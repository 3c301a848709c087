"""Logs to MLflow, as artifacts of the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_pareto.integration.output.loggers.base import Cell, LoggerAdapter, as_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MLFlowAdapter(LoggerAdapter):
    """Logs PNG, CSV and HTML artifacts, which MLflow shows. Its own tables would need pandas.

    Args:
        logger: an MLFlowLogger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def figure(self, name: str, figure: "Figure", step: int) -> None:  # noqa: ARG002
        """Log ``<name>.png``."""
        self._logger.experiment.log_figure(self._logger.run_id, figure, f"{name}.png")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:  # noqa: ARG002
        """Log ``<name>.csv``."""
        self._logger.experiment.log_text(self._logger.run_id, as_csv(columns, rows), f"{name}.csv")

    def html(self, name: str, path: Path, step: int) -> None:  # noqa: ARG002
        """Log ``<name>.html``."""
        page = path.read_text(encoding="utf-8")
        self._logger.experiment.log_text(self._logger.run_id, page, f"{name}.html")
