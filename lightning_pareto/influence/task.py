"""The classification task: reads logits, targets and losses from a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def task_example(batch: Any) -> str:
    """Code that describes a batch like this one, for error messages."""
    x, y = ("batch[0]", "batch[1]") if isinstance(batch, (tuple, list)) else ('batch["image"]', 'batch["digit"]')
    return f"""Describe it with a ClassificationTask:

    from lightning_pareto import ClassificationTask

    task = ClassificationTask(
        logits=lambda module, batch: module({x}),  # (B, C)
        targets=lambda batch: {y},                 # (B,) integers
    )

and pass task=task. (Use named functions instead of lambdas with strategy="ddp_spawn".)"""


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
    raise BatchError(f"cannot read a batch of type {_describe(batch)}.\n{task_example(batch)}")


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
    raise BatchError(f"cannot find the labels in a batch of type {_describe(batch)}.\n{task_example(batch)}")


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
            name = _label_of(batch) if self.targets is default_targets else "labels"
            raise BatchError(
                f"expected integer labels of shape (B,), found {_describe(targets)}. "
                f"{_advice_on_labels(targets, name)}.\n{task_example(batch)}"
            )
        return targets.long()

    def read_logits(self, module: nn.Module, batch: Any, targets: Tensor) -> Tensor:
        """Return the logits of a batch, checked against its targets.

        Raises:
            BatchError: if the logits are not (B, C) with C ≥ 2, or a label is outside [0, C).
        """
        try:
            logits = self.logits(module, batch)
        except (TypeError, NotImplementedError) as error:
            raise BatchError(f"the module's forward rejected the batch: {error}.\n{task_example(batch)}") from error
        except (RuntimeError, ValueError) as error:
            remedy = next((remedy for text, remedy in _REMEDIES.items() if text in str(error)), None)
            if remedy is None:
                raise
            raise BatchError(f"the module's forward rejected the batch: {error}. {remedy}") from error
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
            f"expected logits of shape ({len(targets) or 'B'}, C), found {_describe(logits)}. Return logits from "
            "ClassificationTask(logits=lambda module, batch: …)"
        )
    if logits.shape[1] < 2:
        raise BatchError(
            "expected one logit per class, found a single one. For a binary classifier with one logit z: "
            "logits=lambda module, batch: torch.nn.functional.pad(module(batch[0]).reshape(-1, 1), (1, 0))"
        )
    if not logits.is_floating_point():
        raise BatchError(
            f"expected logits that are real numbers, found {_describe(logits)}. Return them before any rounding or "
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


def _label_of(batch: Any) -> str:
    """How a user writes the labels of a batch that the defaults can read."""
    return 'batch["labels"]' if isinstance(batch, Mapping) else "batch[1]"


def _advice_on_labels(found: Any, name: str) -> str:
    """What to do with labels that are not integers (B,). It goes by their values, not only by their shape."""
    if not isinstance(found, Tensor) or found.is_complex() or not found.ndim:
        return "Return a tensor with one integer for each sample"
    whole = not found.is_floating_point() or bool((found == found.round()).all())
    if found.ndim == 1 or found.shape[1:] == (1,):
        if not whole:
            return "These are no classes, and regression is not supported"
        squeezed, integers = ".squeeze(1)" * (found.ndim - 1), ".long()" * found.is_floating_point()
        return f"Convert them: targets=lambda batch: {name}{squeezed}{integers}"
    if found.ndim == 2 and not (found < 0).any():
        sums = found.double().sum(dim=1)
        if len(found) > 1 and torch.allclose(sums, torch.ones_like(sums)):
            return f"If each row marks one class: targets=lambda batch: {name}.argmax(dim=1)"
        if bool((found <= 1).all()):
            return "Several labels for one sample (multi-label) are not supported. Choose one of them"
    return "Labels for every pixel or token are not supported. Choose one label for each sample"


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with keys {list(value)}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of length {len(value)}"
    return type(value).__name__
