"""Class-wise validation accuracy during a fit, without asking anything of the LightningModule."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassStatScores

from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.listening import Listener

_UNCOUNTED = -1


class ClasswiseAccuracy:
    """Collects the predictions of one validation epoch and returns accuracy and support of every class.

    Args:
        task: how to read a batch.
        limit: number of samples to count, as those that follow are repeats; None for all.
    """

    def __init__(self, task: ClassificationTask, limit: int | None = None) -> None:
        self._listener = Listener(task)
        self._left = limit
        self._metric: MulticlassStatScores | None = None

    def listen(self, module: nn.Module, batch: Any) -> None:
        """Begin a batch.

        Raises:
            BatchError: if its labels cannot be read.
        """
        self._listener.listen(module, batch)

    def update(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """End a batch: count its predictions.

        Raises:
            BatchError: if the logits cannot be read.
        """
        _, logits, targets = self._listener.heard(trainer, module)
        if self._metric is None:
            self._metric = _metric(logits.shape[1], logits.device)
        self._metric.update(logits, self._without_repeats(targets))

    def compute(self, trainer: pl.Trainer) -> tuple[list[float], list[float]] | None:
        """End the epoch: correct predictions and support of every class over all processes, if there was any.

        A collective operation, also for a process that has seen no batch.
        """
        device = trainer.strategy.root_device
        mine = torch.tensor(0 if self._metric is None else self._metric.num_classes, device=device)
        classes = int(trainer.strategy.reduce(mine, reduce_op="max"))
        if classes == 0:
            return None
        if self._metric is None:
            self._metric = _metric(classes, device)
            self._metric.update(torch.zeros(1, classes, device=device), torch.full((1,), _UNCOUNTED, device=device))
        scores = self._metric.compute()  # (C, 5): tp, fp, tn, fn, support
        return scores[:, 0].tolist(), scores[:, 4].tolist()

    def stop(self) -> None:
        """Stop listening and forget the batch."""
        self._listener.stop()

    def _without_repeats(self, targets: Tensor) -> Tensor:
        """The targets, uncounted from where the sampler repeats samples."""
        if self._left is None:
            return targets
        count = min(self._left, len(targets))
        self._left -= count
        return torch.cat([targets[:count], torch.full_like(targets[count:], _UNCOUNTED)])


def _metric(classes: int, device: torch.device) -> MulticlassStatScores:
    return MulticlassStatScores(classes, average=None, ignore_index=_UNCOUNTED).to(device)


def named_values(hits: Sequence[float], support: Sequence[float], class_names: Sequence[str]) -> dict[str, float]:
    """Values to log, by name; a class without samples has a support but no accuracy."""
    accuracy = {name: h / s for name, h, s in zip(class_names, hits, support, strict=True) if s}
    return {
        **{f"val_accuracy/{name}": value for name, value in accuracy.items()},
        **{f"val_support/{name}": float(s) for name, s in zip(class_names, support, strict=True)},
        "val_accuracy_macro": sum(accuracy.values()) / len(accuracy),
        "val_accuracy_worst": min(accuracy.values()),
    }
