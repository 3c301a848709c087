"""Logs figures, tables and HTML pages with the loggers that can show them."""

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
