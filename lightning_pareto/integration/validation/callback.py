"""The base of the callbacks that watch validation epochs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl

from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.validation.collector import Consumer, ValidationCollector


class ValidationCallback(pl.Callback, ABC):
    """Collects the predictions of validation epochs.

    Args:
        data: which validation loader, and how its batches are read.
    """

    def __init__(self, data: DataSource) -> None:
        super().__init__()
        self.data = data
        self._collector: ValidationCollector | None = None

    @abstractmethod
    def consumers(self, trainer: pl.Trainer) -> Sequence[Consumer]:
        """Who gets the predictions of the epoch that begins; nobody if it is to be ignored."""

    @abstractmethod
    def on_collected(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The consumers have got all predictions of the epoch."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the logging functions that Lightning attaches, and with them the module."""
        return {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to collect."""
        consumers = self.consumers(trainer)
        self._collector = ValidationCollector(self.data, trainer, consumers) if consumers else None

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen for the logits of the batch."""
        if self._collector is not None:
            self._collector.begin_batch(pl_module, batch, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Pass the predictions of the batch on."""
        if self._collector is not None:
            self._collector.end_batch(trainer, pl_module, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish the epoch."""
        collector, self._collector = self._collector, None
        if collector is not None:
            self.on_collected(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook on the module and no half of an epoch."""
        if self._collector is not None:
            self._collector.stop()
            self._collector = None
