"""Collects the logits of one validation epoch and passes them to those who need them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.padding import samples_before_padding
from lightning_pareto.integration.validation.logits import LogitsListener


class Consumer(ABC):
    """Learns the predictions of a validation epoch, batch by batch."""

    @abstractmethod
    def update(self, batch: Any, logits: Tensor, targets: Tensor, count: int) -> None:
        """Take one batch.

        Args:
            batch: the batch.
            logits: (B, C).
            targets: labels, (B,).
            count: number of samples to use. The rest of the batch is padding.
        """


class ValidationCollector:
    """Collects one validation epoch of one loader.

    Args:
        source: which validation loader, and how its batches are read.
        trainer: the trainer that validates.
        consumers: who gets the predictions.
    """

    def __init__(self, source: DataSource, trainer: pl.Trainer, consumers: Sequence[Consumer]) -> None:
        self._listener = LogitsListener(source.task)
        self._dataloader_idx = source.val_dataloader_idx
        self._left = samples_before_padding(source.watched(trainer))  # None for no padding
        self._consumers = consumers

    def begin_batch(self, module: nn.Module, batch: Any, dataloader_idx: int) -> None:
        """Listen for the logits of a batch.

        Raises:
            BatchError: if its labels cannot be read.
        """
        if dataloader_idx == self._dataloader_idx:
            self._listener.begin(module, batch)

    def end_batch(self, trainer: pl.Trainer, module: pl.LightningModule, dataloader_idx: int) -> None:
        """Pass the predictions of the batch on.

        Raises:
            BatchError: if the logits cannot be read.
        """
        if dataloader_idx != self._dataloader_idx:
            return
        batch, logits, targets = self._listener.end(trainer, module)
        count = len(targets)
        if self._left is not None:
            count = min(count, self._left)
            self._left -= count
        for consumer in self._consumers:
            consumer.update(batch, logits, targets, count)

    def stop(self) -> None:
        """Leave no hook on the module."""
        self._listener.stop()
