"""Per-sample validation measures as functions of logits; lower is better."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_pareto.influence.factors import flush_tiny, to_float64
from lightning_pareto.influence.task import BatchError

MeasureName = Literal["loss", "soft_error"]
Measure = Callable[[Tensor, Tensor], Tensor]


def soft_error(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the probability of the true class, (B,)."""
    return 1 - logits.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)


def get_measure(name: MeasureName, loss: Measure) -> Measure:
    """Return the measure called ``name``; ``"loss"`` is the task's own loss."""
    return loss if name == "loss" else soft_error


def read_outcome(logits: Tensor, targets: Tensor) -> Tensor:
    """Prediction, whether it is the label (0 or 1), and probability of the label, (B, 3) in float64."""
    exact = to_float64(logits.detach())
    targets = targets.to(exact.device)
    predicted = exact.argmax(dim=1)
    probability = exact.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    return torch.stack([predicted.double(), (predicted == targets).double(), probability], dim=1)


def logit_gradient(measure: Measure, logits: Tensor, targets: Tensor) -> Tensor:
    """Gradient of each sample's measure with respect to its own logits, (B, C).

    Raises a ValueError if the measure is not one differentiable value per sample, a BatchError if one is not finite.
    """
    leaf = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).requires_grad_()
    with torch.enable_grad():
        values = measure(leaf, targets)
    if not isinstance(values, Tensor) or values.shape != targets.shape or not values.requires_grad:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"the loss must return one differentiable value per sample, shape {tuple(targets.shape)}, found {found}: "
            'use reduction="none"'
        )
    not_finite = ~torch.isfinite(values)
    if not_finite.any():
        raise BatchError(
            "a sample's loss is not finite: look for NaN in the inputs or a diverged model",
            int(not_finite.int().argmax()),
        )
    (gradient,) = torch.autograd.grad(values, leaf, torch.ones_like(values))
    return flush_tiny(gradient)
