"""Per-sample validation measures, lower is better, as functions of logits."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_pareto.influence.factors import without_dust

MeasureName = Literal["loss", "soft_error"]
Measure = Callable[[Tensor, Tensor], Tensor]


def soft_error(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the probability of the true class, (B,)."""
    return 1 - logits.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)


def get_measure(name: str, loss: Measure) -> Measure:
    """Return the measure called ``name``; ``"loss"`` is the task's own loss.

    Raises:
        ValueError: for an unknown name.
    """
    measures = {"loss": loss, "soft_error": soft_error}
    if name not in measures:
        raise ValueError(f"measure must be one of {sorted(measures)}, found {name!r}")
    return measures[name]


def logit_gradient(measure: Measure, logits: Tensor, targets: Tensor) -> Tensor:
    """Gradient of each sample's measure with respect to its own logits, (B, C).

    Raises:
        ValueError: if the measure is not one finite value per sample.
    """
    leaf = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).requires_grad_()
    with torch.enable_grad():
        values = measure(leaf, targets)
    if values.shape != targets.shape:
        raise ValueError(
            f"the loss must return one value per sample, shape {tuple(targets.shape)}, found {tuple(values.shape)}: "
            'use reduction="none"'
        )
    if not torch.isfinite(values).all():
        raise ValueError("a sample's loss is not finite: look for NaN in the inputs or a diverged model")
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return without_dust(gradient)
