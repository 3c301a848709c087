"""Class-wise validation accuracy during a fit, without asking anything of the LightningModule."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics.classification import MulticlassStatScores

from lightning_pareto.influence.gradients import evaluation_mode
from lightning_pareto.influence.task import ClassificationTask, check_logits, default_logits, read_logits


class ClasswiseAccuracy:
    """Collects the predictions of a validation epoch and returns accuracy and support of every class.

    Where the module's ``forward`` gave the logits during ``validation_step`` they are read from there; otherwise the
    batch takes one more forward pass.

    Args:
        task: how to read a batch.
    """

    def __init__(self, task: ClassificationTask) -> None:
        self._task = task
        self._metric: MulticlassStatScores | None = None
        self._outputs: list[Any] = []
        self._handle: RemovableHandle | None = None

    def listen(self, module: nn.Module) -> None:
        """Begin a batch: keep what the module's ``forward`` returns until :meth:`update`."""
        self._outputs.clear()
        if self._handle is None and self._task.logits is default_logits:
            self._handle = module.register_forward_hook(lambda _module, _args, output: self._outputs.append(output))

    def update(self, module: nn.Module, batch: Any) -> None:
        """End a batch: count its predictions.

        Raises:
            BatchError: if the batch cannot be read.
        """
        targets = self._task.read_targets(batch)
        logits = self._heard(targets)
        self._stop()
        if logits is None:
            with torch.no_grad(), evaluation_mode(module):
                logits = self._task.read_logits(module, batch, targets)
        check_logits(logits, targets)
        if self._metric is None:
            self._metric = MulticlassStatScores(logits.shape[1], average=None).to(logits.device)
        self._metric.update(logits.detach(), targets)

    def compute(self) -> tuple[list[float], list[float]] | None:
        """End an epoch (a collective operation): correct predictions and support of every class, if there was any."""
        if self._metric is None:
            return None
        scores = self._metric.compute()  # (C, 5): tp, fp, tn, fn, support
        self.reset()
        return scores[:, 0].tolist(), scores[:, 4].tolist()

    def reset(self) -> None:
        """Forget the epoch."""
        self._stop()
        if self._metric is not None:
            self._metric.reset()

    def _heard(self, targets: Tensor) -> Tensor | None:
        """The one tensor of logits that fits the batch, if there is exactly one."""
        found = [read_logits(output) for output in self._outputs]
        fitting = {
            id(x): x
            for x in found
            if isinstance(x, Tensor) and x.ndim == 2 and len(x) == len(targets) and x.shape[1] > 1
        }
        return next(iter(fitting.values())) if len(fitting) == 1 else None

    def _stop(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self._outputs.clear()


def named_values(hits: Sequence[float], support: Sequence[float], class_names: Sequence[str]) -> dict[str, float]:
    """Values to log, by name; a class without samples has a support but no accuracy."""
    accuracy = {name: h / s for name, h, s in zip(class_names, hits, support, strict=True) if s}
    return {
        **{f"val_accuracy/{name}": value for name, value in accuracy.items()},
        **{f"val_support/{name}": float(s) for name, s in zip(class_names, support, strict=True)},
        "val_accuracy_macro": sum(accuracy.values()) / len(accuracy),
        "val_accuracy_worst": min(accuracy.values()),
    }
