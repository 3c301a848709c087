"""Compares the loss that ``training_step`` returns with the one of which influence is computed."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.trainer.processes import rank_zero_warn

TOLERANCE = 0.01
"""Relative difference of the losses of a batch that still counts as rounding, in half precision for instance."""

LAST = 3
"""How many comparisons count at the end, one an epoch. At the start, different losses may have similar values."""


class LossComparison:
    """Computes the task's loss of the first batch of every epoch, in training mode, as ``training_step`` is about to.

    Buffers and random states are restored, so the fit is the same to the bit, and dropout draws what it will draw in
    the step. A batch that the task cannot read is left out.

    Args:
        task: whose loss influence is computed of.
    """

    def __init__(self, task: ClassificationTask) -> None:
        self._task = task
        self._expected: tuple[float, float] | None = None  # mean and sum of the current batch
        self._differences: list[tuple[float, float]] = []  # trained and expected
        self._warned = False

    def begin_fit(self) -> None:
        """Forget the previous fit."""
        self._expected, self._differences, self._warned = None, [], False

    def begin_batch(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        """Compute the loss of a batch before its step."""
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        try:
            with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
                targets = self._task.read_targets(copy.copy(batch))
                losses = self._task.loss(self._task.read_logits(module, copy.copy(batch), targets).float(), targets)
            self._expected = float(losses.mean()), float(losses.sum())
        except Exception:  # training batches may differ in any way from those that the task reads
            self._expected = None
        with torch.no_grad():
            for buffer, before in buffers:  # forward may have put others in their places, as caches do
                buffer.copy_(before)

    def end_batch(self, trainer: pl.Trainer, outputs: Any) -> None:
        """Compare with the loss of the step, if it returned one."""
        found = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        expected, self._expected = self._expected, None
        if expected is None or not isinstance(found, torch.Tensor) or found.numel() != 1:
            return
        trained = float(found) * trainer.accumulate_grad_batches  # Lightning has divided it
        self._differences.append((trained, min(expected, key=lambda value: abs(value - trained))))
        if len(self._differences) == 1:
            self.warn()

    def warn(self) -> None:
        """Warn, once a fit, if the losses differ in half of the last comparisons or more."""
        last = self._differences[-LAST:]
        different = [pair for pair in last if not math.isclose(*pair, rel_tol=TOLERANCE, abs_tol=1e-3)]
        if last and 2 * len(different) >= len(last) and not self._warned:
            self._warned = True
            trained, expected = different[-1]
            rank_zero_warn(
                f"training_step returns another loss ({trained:.4g} on a batch) than the one whose influence is "
                f"computed ({expected:.4g}). Class weights, label smoothing, soft labels (MixUp), "
                "another output than the logits of forward, or augmentation in the step? Describe it with a "
                "ClassificationTask, for instance "
                "ClassificationTask(loss=lambda logits, targets: torch.nn.functional.cross_entropy(logits, targets, "
                'reduction="none", label_smoothing=0.1))'
            )
