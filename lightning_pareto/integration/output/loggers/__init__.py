"""Figures, tables and HTML pages for the loggers that can show them."""

from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_pareto.integration.output.loggers.base import LoggerAdapter
from lightning_pareto.integration.output.loggers.files import FileAdapter
from lightning_pareto.integration.output.loggers.mlflow import MLFlowAdapter
from lightning_pareto.integration.output.loggers.tensorboard import TensorBoardAdapter
from lightning_pareto.integration.output.loggers.weights_and_biases import WandbAdapter
from lightning_pareto.integration.trainer.namespaces import is_a

__all__ = ["LoggerAdapter", "adapter_for"]


def adapter_for(logger: Any) -> LoggerAdapter | None:
    """How to show figures, tables and pages with this logger.

    TensorBoard, Weights & Biases and MLflow show them themselves. Any other logger that has a folder for the run
    (``log_dir``), such as CSVLogger, gets files there; one without gets nothing, but the metrics that all get.

    Args:
        logger: a Lightning logger of either namespace, or a user's own.
    """
    if is_a(logger, TensorBoardLogger):
        return TensorBoardAdapter(logger)
    if is_a(logger, WandbLogger):
        return WandbAdapter(logger)
    if is_a(logger, MLFlowLogger):
        return MLFlowAdapter(logger)
    folder = getattr(logger, "log_dir", None)
    return FileAdapter(folder) if isinstance(folder, str) else None
