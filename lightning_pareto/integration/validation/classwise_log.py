"""Class-wise metrics to the loggers, from one validation epoch to the next."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn

from lightning_pareto.display.terminal import listed
from lightning_pareto.integration.trainer.data_source import ParetoData
from lightning_pareto.integration.trainer.padding import samples_before_repeats
from lightning_pareto.integration.validation.epoch_metrics import ClasswiseMetrics, Values
from lightning_pareto.integration.validation.metrics import Float, Metrics, chosen_metrics


class ClasswiseLog:
    """Logs the chosen metrics of every class at the end of each validation epoch.

    Args:
        data: where the samples come from and how they are read.
        metrics: names of metrics, or a mapping to names and torchmetrics.

    Raises:
        ValueError: for an unknown name, or a metric that does not return one number for each class.
        TypeError: for anything else.
    """

    def __init__(self, data: ParetoData, metrics: Metrics) -> None:
        self._data = data
        self._chosen = chosen_metrics(metrics)
        self._epoch: ClasswiseMetrics | None = None  # under way
        self._before: Values = {}
        self._names: Sequence[str] = ()  # as in the fit
        self._absence_told = False

    @property
    def state(self) -> dict[str, Any]:
        """The values of the last validation of the fit, plain enough for a checkpoint; empty if there was none."""
        return {metric: dict(values) for metric, values in self._before.items()}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self._before = state

    def begin_fit(self) -> None:
        """Forget the fit before."""
        self._epoch, self._before, self._names, self._absence_told = None, {}, (), False

    def begin(self, trainer: pl.Trainer) -> None:
        """Begin to count, unless the trainer is bare and would log nothing."""
        if getattr(trainer, "barebones", False):
            return
        limit = samples_before_repeats(self._data.watched(trainer))
        self._epoch = ClasswiseMetrics(self._data.task, self._chosen, trainer.strategy.root_device, limit)

    def listen(self, module: pl.LightningModule, batch: Any, dataloader_idx: int) -> None:
        """Listen to the logits of the chosen validation loader."""
        if dataloader_idx == self._data.val_dataloader_idx and self._epoch is not None:
            self._epoch.listen(module, batch)

    def update(self, trainer: pl.Trainer, module: pl.LightningModule, dataloader_idx: int) -> None:
        """Count the batch's predictions."""
        if dataloader_idx == self._data.val_dataloader_idx and self._epoch is not None:
            self._epoch.update(trainer, module)

    def finish(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Log what was found, and warn of absent classes."""
        found = self._epoch.compute(trainer) if self._epoch is not None else None
        self._epoch = None
        if found is None or trainer.sanity_checking:
            return
        fitting, count = trainer.state.fn == "fit", len(found.support)
        known = not fitting and len(self._names) == count
        self._names = names = self._names if known else self._data.names_of_classes(trainer, count)
        self._tell_of_absent_classes(trainer, names, found.support)
        before = self._before if fitting else {}
        classes, overall = found.of_classes(names, before), found.over_classes(names, before)
        if fitting:
            _log_many(trainer, classes)
            self._before = found.by_class(names)
        else:
            overall.update(classes)  # for what trainer.validate returns
        module.log_dict(overall, sync_dist=dist.is_available() and dist.is_initialized())

    def stop(self) -> None:
        """Leave no hook on the module and no half of an epoch."""
        if self._epoch is not None:
            self._epoch.stop()
            self._epoch = None

    def _tell_of_absent_classes(self, trainer: pl.Trainer, names: Sequence[str], support: Float) -> None:
        """Warn once, and only if the epoch was the whole validation set."""
        dataset = getattr(self._data.watched(trainer), "dataset", None)
        absent = [name for name, count in zip(names, support, strict=True) if count == 0]
        whole = isinstance(dataset, Sized) and support.sum() == len(dataset)
        if absent and whole and not self._absence_told:
            self._absence_told = True
            rank_zero_warn(
                f"no validation samples of {listed(absent)}: no accuracy is logged for them, and nothing can be "
                "said about them after the fit. Add validation samples of these classes"
            )


def _log_many(trainer: pl.Trainer, values: dict[str, float]) -> None:
    """Do at once what ``LightningModule.log`` would do in a quarter of a millisecond for each value.

    The values are the same on all processes already.
    """
    kept = dict(zip(values, torch.tensor(list(values.values()), device=trainer.strategy.root_device), strict=True))
    trainer.callback_metrics.update(kept)
    trainer.logged_metrics.update(kept)
    step = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step)  # as Lightning counts
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=step)
