"""The logits of a validation batch, read from the user's own validation step where possible."""

import copy
from abc import ABC, abstractmethod
from collections.abc import MutableMapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_pareto.influence.gradients import evaluation_mode
from lightning_pareto.influence.task import ClassificationTask, check_logits, default_logits, read_logits


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


class LogitsListener:
    """Reads the logits and labels of one validation batch at a time.

    If the module's ``forward`` computes the logits during ``validation_step``, they are taken from there. Otherwise the
    batch costs one more forward pass.

    Args:
        task: how to read a batch.
    """

    def __init__(self, task: ClassificationTask) -> None:
        self._task = task
        self._batch: Any = None
        self._targets = torch.empty(0, dtype=torch.int64)
        self._outputs: list[Any] = []
        self._handle: RemovableHandle | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the current batch."""
        return {**self.__dict__, "_batch": None, "_outputs": [], "_handle": None}

    def begin(self, module: nn.Module, batch: Any) -> None:
        """Begin a batch: read its labels, and keep what the module's ``forward`` returns until :meth:`end`.

        Raises:
            BatchError: if the labels cannot be read.
        """
        self.stop()
        self._targets = self._task.read_targets(batch)
        self._batch = copy.copy(batch) if isinstance(batch, MutableMapping) else batch  # validation_step may pop
        if self._task.logits is default_logits:
            self._handle = module.register_forward_hook(self._keep)

    def end(self, trainer: pl.Trainer, module: pl.LightningModule) -> tuple[Any, Tensor, Tensor]:
        """End the batch and return it with its logits (B, C) and labels (B,).

        Raises:
            BatchError: if the logits cannot be read.
        """
        # A wrapper such as DDP runs validation_step as the module's forward, whose output then comes last.
        wrapped = trainer.strategy.model is not module
        logits = self._logits_among(self._outputs[:-1] if wrapped else self._outputs)
        batch, targets = self._batch, self._targets
        self.stop()
        if logits is None:
            with torch.no_grad(), evaluation_mode(module), trainer.precision_plugin.forward_context():
                logits = self._task.read_logits(module, batch, targets)
        check_logits(logits, targets)
        return batch, logits.detach(), targets

    def stop(self) -> None:
        """Remove the hook and forget the batch."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self._outputs, self._batch = [], None

    def _keep(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._outputs.append(output)

    def _logits_among(self, outputs: list[Any]) -> Tensor | None:
        """The one output that has the shape of logits; None if there is none or more than one."""
        found = [read_logits(output) for output in outputs]
        candidates = {
            id(x): x
            for x in found
            if isinstance(x, Tensor) and x.ndim == 2 and len(x) == len(self._targets) and x.shape[1] > 1
        }
        return next(iter(candidates.values())) if len(candidates) == 1 else None
