"""The part of the callback that logs class-wise metrics."""

from typing import Any

import lightning.pytorch as pl

from lightning_pareto.integration.trainer.data_source import ParetoData
from lightning_pareto.integration.validation.classwise_log import ClasswiseLog
from lightning_pareto.integration.validation.metrics import Metrics

KEPT = "pareto_classwise"  # in a checkpoint


class ClasswiseCallback(pl.Callback):
    """Logs metrics of every class at the end of each validation epoch.

    Args:
        data: where the samples come from and how they are read.
        metrics: names of metrics, or a mapping to names and torchmetrics.
    """

    def __init__(self, data: ParetoData, metrics: Metrics) -> None:
        super().__init__()
        self.data = data
        self.classwise = ClasswiseLog(data, metrics)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the class-wise values of the last validation; as a state_dict() they would have to be read by all."""
        checkpoint.setdefault(KEPT, {})[self.data.val_dataloader_idx] = self.classwise.state

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on where the checkpoint was written."""
        self.classwise.state = checkpoint.get(KEPT, {}).get(self.data.val_dataloader_idx, {})

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        self.classwise.begin(trainer)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen to the logits of the chosen validation loader."""
        self.classwise.listen(pl_module, batch, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch's predictions."""
        self.classwise.update(trainer, pl_module, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log class-wise metrics and support, and warn of absent classes."""
        self.classwise.finish(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook on the module and no half of an epoch."""
        self.classwise.stop()
