"""The base of the callbacks that watch validation epochs."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import lightning.pytorch as pl

from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.internals import mode_of_validation
from lightning_pareto.integration.trainer.padding import samples_before_padding
from lightning_pareto.integration.validation.logits import Consumer, LogitsListener

C = TypeVar("C", bound=Consumer)


class ValidationCallback(pl.Callback, ABC, Generic[C]):
    """Collects the predictions of validation epochs.

    Args:
        data: which validation loader, and how its batches are read.
    """

    def __init__(self, data: DataSource) -> None:
        super().__init__()
        self.data = data
        self._listener = LogitsListener(data.task)
        self._consumer: C | None = None  # of the current epoch
        self._left: int | None = None  # samples before the padding; None for no padding

    @abstractmethod
    def consumer(self, trainer: pl.Trainer) -> C | None:
        """Who gets the predictions of the epoch that begins; None if it is to be ignored."""

    @abstractmethod
    def on_collected(self, trainer: pl.Trainer, module: pl.LightningModule, consumer: C) -> None:
        """The consumer has got all predictions of the epoch."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the logging functions that Lightning attaches, and with them the module."""
        return {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse loaders whose validation cannot be watched, in case there was no sanity check."""
        _refuse_combined(trainer)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to collect."""
        self._consumer = self.consumer(trainer)
        if self._consumer is not None:
            _refuse_combined(trainer)
            self._left = samples_before_padding(self.data.watched(trainer))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen for the logits of the batch; a BatchError if its labels cannot be read."""
        if self._consumer is not None and dataloader_idx == self.data.val_dataloader_idx:
            self._listener.begin(pl_module, batch)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Pass the predictions of the batch on; a BatchError if the logits cannot be read."""
        if self._consumer is None or dataloader_idx != self.data.val_dataloader_idx:
            return
        batch, logits, targets = self._listener.end(trainer, pl_module)
        count = len(targets)
        if self._left is not None:
            count = min(count, self._left)
            self._left -= count
        self._consumer.update(batch, logits, targets, count)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish the epoch."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            self.on_collected(trainer, pl_module, consumer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook on the module and no half of an epoch."""
        self._listener.stop()
        self._consumer = None


def _refuse_combined(trainer: pl.Trainer) -> None:
    """Raise a TypeError if batches of several validation loaders are combined into one."""
    mode = mode_of_validation(trainer)
    if mode != "sequential":
        raise TypeError(
            "validation loaders must be read one after the other, found a CombinedLoader in the mode "
            f"{mode!r}, whose batches hold samples of all of them. Return the loaders as a list from val_dataloader(), "
            'or a CombinedLoader(…, "sequential")'
        )
