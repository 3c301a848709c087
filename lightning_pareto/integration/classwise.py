"""Class-wise validation accuracy during a fit, without asking anything of the LightningModule."""

import copy
from collections.abc import MutableMapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics.classification import MulticlassStatScores

from lightning_pareto.influence.gradients import evaluation_mode
from lightning_pareto.influence.task import ClassificationTask, check_logits, default_logits, read_logits

_UNCOUNTED = -1


class ClasswiseAccuracy:
    """Collects the predictions of one validation epoch and returns accuracy and support of every class.

    Where the module's ``forward`` gave the logits during ``validation_step`` they are read from there; otherwise the
    batch takes one more forward pass.

    Args:
        task: how to read a batch.
        limit: number of samples to count, as those that follow are repeats; None for all.
    """

    def __init__(self, task: ClassificationTask, limit: int | None = None) -> None:
        self._task = task
        self._left = limit
        self._metric: MulticlassStatScores | None = None
        self._batch: Any = None
        self._targets = torch.empty(0, dtype=torch.int64)
        self._outputs: list[Any] = []
        self._handle: RemovableHandle | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to the batch under way."""
        return {**self.__dict__, "_batch": None, "_outputs": [], "_handle": None}

    def listen(self, module: nn.Module, batch: Any) -> None:
        """Begin a batch: read its labels, and keep what the module's ``forward`` returns until :meth:`update`.

        Raises:
            BatchError: if the labels cannot be read.
        """
        self.stop()
        self._targets = self._task.read_targets(batch)
        self._batch = copy.copy(batch) if isinstance(batch, MutableMapping) else batch  # validation_step may pop
        if self._task.logits is default_logits:
            self._handle = module.register_forward_hook(self._hear)

    def update(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """End a batch: count its predictions.

        Raises:
            BatchError: if the logits cannot be read.
        """
        # A wrapper such as DDP runs validation_step as the module's forward, and is heard last with what it returned.
        redirected = trainer.strategy.model is not module
        logits = self._heard(self._outputs[:-1] if redirected else self._outputs)
        batch, targets = self._batch, self._targets
        self.stop()
        if logits is None:
            with torch.no_grad(), evaluation_mode(module), trainer.precision_plugin.forward_context():
                logits = self._task.read_logits(module, batch, targets)
        check_logits(logits, targets)
        if self._metric is None:
            self._metric = _metric(logits.shape[1], logits.device)
        self._metric.update(logits.detach(), self._without_repeats(targets))

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
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self._outputs = []
        self._batch = None

    def _hear(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._outputs.append(output)

    def _heard(self, outputs: list[Any]) -> Tensor | None:
        """The one tensor of logits that fits the batch, if there is exactly one."""
        found = [read_logits(output) for output in outputs]
        fitting = {
            id(x): x
            for x in found
            if isinstance(x, Tensor) and x.ndim == 2 and len(x) == len(self._targets) and x.shape[1] > 1
        }
        return next(iter(fitting.values())) if len(fitting) == 1 else None

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
