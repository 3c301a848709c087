"""The classification task: reads logits, targets and losses from a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pareto.influence.advice import (
    advice_on_batch,
    advice_on_labels,
    advice_on_one_logit,
    advice_on_rejection,
    describe,
)


class BatchError(ValueError):
    """A batch, or the module's output for it, cannot be read as a classification problem.

    Attributes:
        row: position in the batch of the sample at fault; None if the error concerns the whole batch.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


def default_logits(module: nn.Module, batch: Any) -> Any:
    """Call the module on an ``(x, y)`` batch, or on a dict batch without its ``labels``."""
    if isinstance(batch, Mapping):
        return read_logits(module(**{name: value for name, value in batch.items() if name != "labels"}))
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return read_logits(module(batch[0]))
    raise BatchError(f"cannot read a batch of type {describe(batch)}. {advice_on_batch(batch)}")


def read_logits(output: Any) -> Any:
    """Return a module's output itself, or its ``.logits`` / ``["logits"]``."""
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    return getattr(output, "logits", output)


def default_targets(batch: Any) -> Any:
    """Return ``y`` of an ``(x, y)`` batch or ``labels`` of a dict batch."""
    if isinstance(batch, Mapping) and "labels" in batch:
        return batch["labels"]
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[1]
    raise BatchError(f"cannot find the labels in a batch of type {describe(batch)}. {advice_on_batch(batch)}")


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Per-sample cross-entropy, (B,)."""
    return F.cross_entropy(logits, targets, reduction="none")


@dataclass(frozen=True)
class ClassificationTask:
    """Reads logits, targets and losses from a batch.

    The defaults read two kinds of batches. An ``(x, y)`` batch is passed to the module as ``module(x)``. A dict batch
    holds ``labels``, and its other entries are the keyword arguments of ``forward``. The module returns logits, or an
    object with ``.logits``.

    Attributes:
        logits: function of (module, batch) returning logits, (B, C) with C ≥ 2.
        targets: function of the batch returning integer labels in [0, C), (B,).
        loss: function of (logits, targets) returning the *training* loss of each sample, (B,). Each value must depend
            on its own row only. Pass your own if you train with label smoothing, class weights or a focal loss.

    Example:
        >>> import torch
        >>> task = ClassificationTask(targets=lambda batch: batch["digit"])
        >>> task.targets({"digit": torch.tensor([3, 1])})
        tensor([3, 1])
    """

    logits: Callable[[nn.Module, Any], Any] = default_logits
    targets: Callable[[Any], Any] = default_targets
    loss: Callable[[Tensor, Tensor], Any] = cross_entropy

    def read_targets(self, batch: Any) -> Tensor:
        """Return the labels of a batch as int64, (B,).

        Raises:
            BatchError: if the labels are missing, not integers, or not one per sample.
        """
        targets = self.targets(batch)
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex() or targets.ndim != 1:
            advice = advice_on_labels(targets, batch, own=self.targets is not default_targets)
            raise BatchError(f"expected integer labels of shape (B,), found {describe(targets)}. {advice}")
        return targets.long()

    def read_logits(self, module: nn.Module, batch: Any, targets: Tensor) -> Tensor:
        """Return the logits of a batch, checked against its targets.

        Raises:
            BatchError: if the logits are not (B, C) with C ≥ 2, or a label is outside [0, C).
        """
        try:
            logits = self.logits(module, batch)
        except (TypeError, NotImplementedError) as error:
            raise BatchError(
                f"the module's forward rejected the batch: {error}. {advice_on_rejection(batch)}"
            ) from error
        except (RuntimeError, ValueError) as error:
            remedy = next((remedy for text, remedy in _REMEDIES.items() if text in str(error)), None)
            if remedy is None:
                raise
            raise BatchError(f"the module's forward rejected the batch: {error}. {remedy}") from error
        if isinstance(logits, Tensor) and logits.numel() == len(targets) > 1:
            own = self.logits is not default_logits or self.targets is not default_targets
            advice = advice_on_one_logit(batch, targets, own)
            raise BatchError(f"expected one logit per class, found a single one ({describe(logits)}). {advice}")
        return check_logits(logits, targets)


_REMEDIES = {
    "dtype": "Use one precision for model and batch: call module.float(), or convert the inputs with "
    "estimate_influence(…, transfer=lambda batch: …)",
    "Expected more than 1 value per channel": "Influence is defined per sample, so the model must accept single "
    "samples in evaluation mode. Use BatchNorm with running statistics (track_running_stats=True), GroupNorm or "
    "LayerNorm",
}
"""How to fix common torch errors, keyed by a part of their message."""


def check_logits(logits: Any, targets: Tensor) -> Tensor:
    """Return ``logits``, or raise a BatchError unless they are finite, (B, C) with C ≥ 2, and targets are in [0, C)."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(targets) or not len(targets):
        raise BatchError(
            f"expected logits of shape ({len(targets) or 'B'}, C), found {describe(logits)}. Return logits from "
            "ClassificationTask(logits=lambda module, batch: …)"
        )
    if logits.shape[1] < 2:
        raise BatchError("expected one logit per class, found a single one")
    if not logits.is_floating_point():
        raise BatchError(
            f"expected logits that are real numbers, found {describe(logits)}. Return them before any rounding or "
            "argmax, or pass ClassificationTask(logits=lambda module, batch: …)"
        )
    outside = (targets < 0) | (targets >= logits.shape[1])
    if outside.any():
        row = int(outside.int().argmax())
        raise BatchError(
            f"expected labels in [0, {logits.shape[1]}), one for each logit, found {int(targets[row])}. Remove or "
            "relabel such samples. An ignored label such as -100 belongs to no category",
            row,
        )
    not_finite = ~torch.isfinite(logits).all(dim=1)
    if not_finite.any():
        raise BatchError(
            "the model's outputs are not finite: it diverged, or its inputs contain NaN or infinity",
            None if not_finite.all() else int(not_finite.int().argmax()),
        )
    return logits
