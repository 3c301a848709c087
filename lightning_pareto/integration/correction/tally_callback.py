"""A callback that notes which validation samples the model gets right."""

from typing import Any

import lightning.pytorch as pl

from lightning_pareto.integration.correction.tally import Tally, Tallying
from lightning_pareto.integration.trainer.data_source import ParetoData
from lightning_pareto.integration.trainer.padding import samples_before_repeats
from lightning_pareto.integration.trainer.processes import shard_of


class TallyCallback(pl.Callback):
    """Tallies every validation epoch of a fit.

    Args:
        data: which validation loader, and how its batches are read.
    """

    def __init__(self, data: ParetoData) -> None:
        super().__init__()
        self.data = data
        self._tallying: Tallying | None = None
        self._after: Tally | None = None  # of the epoch under way

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            limit = samples_before_repeats(self.data.watched(trainer))
            self._tallying = Tallying(self.data.task, self.data.categories, limit)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen to the logits of the chosen validation loader."""
        if dataloader_idx == self.data.val_dataloader_idx and self._tallying is not None:
            self._tallying.listen(pl_module, batch)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note the batch's predictions."""
        if dataloader_idx == self.data.val_dataloader_idx and self._tallying is not None:
            self._tallying.update(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the processes' predictions together."""
        if self._tallying is not None:
            self._after = self._tallying.whole(shard_of(trainer, pl_module))
            self._tallying = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook on the module."""
        if self._tallying is not None:
            self._tallying.stop()
            self._tallying = None
