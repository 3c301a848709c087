"""Logit gradients whose per-sample gradients make up the Fisher information of a softmax classifier."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_pareto.influence.factors import flush_tiny, to_float64
from lightning_pareto.influence.gradients import Forward
from lightning_pareto.influence.measures import Measure, logit_gradient

FisherName = Literal["sampled", "exact", "empirical"]


@dataclass(frozen=True)
class Fisher:
    """Which Fisher information to use as curvature.

    Attributes:
        name: ``"sampled"`` estimates the true Fisher information from one label per sample, drawn from the model's
            prediction. ``"exact"`` is its expectation over the labels, at a backward pass per class. ``"empirical"``
            uses the given labels; it is not a curvature, since it is large where labels are wrong.
        uniforms: one uniform number in [0, 1) per dataset index, which determines the drawn label.
        loss: the training loss, for the empirical Fisher information.
        weights: one weight per dataset index, in the loss that the model was fitted to. All 1 by default.
    """

    name: FisherName
    uniforms: Tensor
    loss: Measure
    weights: Tensor | None = None

    @classmethod
    def draw(cls, name: FisherName, size: int, seed: int, loss: Measure, weights: Tensor | None = None) -> "Fisher":
        """Draw the uniform numbers for a dataset of ``size`` samples."""
        uniforms = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return cls(name, uniforms, loss, weights)

    def signals(self, forward: Forward, indices: Tensor) -> Iterator[Tensor]:
        """Yield signals, (B, C) each, whose per-sample gradients' outer products sum to the Fisher information."""
        if self.name == "sampled":
            signals = iter([sampled_signal(forward.logits, self.uniforms[indices])])
        elif self.name == "exact":
            signals = exact_signals(forward.logits)
        else:
            signals = iter([logit_gradient(self.loss, forward.logits, forward.targets)])
        for signal in signals:
            yield signal if self.weights is None else signal * self.weights[indices, None].sqrt().to(signal)


def sampled_signal(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Gradient of the cross-entropy for a label drawn from the model's own prediction, p − onehot(label), (B, C).

    The expectation of its outer product is the Fisher information in the logits, diag(p) − ppᵀ. This is also the
    Hessian of the cross-entropy with respect to the logits. A uniform number in [0, 1) per sample, (B,), determines its
    label. Tied to the dataset index, it makes the draw independent of the batch size and the number of processes.
    """
    p = to_float64(logits.detach()).softmax(dim=1)
    drawn = (p.cumsum(dim=1) < uniforms[:, None].to(p)).sum(dim=1).clamp(max=p.shape[1] - 1)
    return flush_tiny(p.scatter_add(1, drawn[:, None], -torch.ones_like(p[:, :1])))


def exact_signals(logits: Tensor) -> Iterator[Tensor]:
    """Yield √p_c (onehot(c) − p) for each class c, (B, C). The sum of their outer products is exactly diag(p) − ppᵀ."""
    p = to_float64(logits.detach()).softmax(dim=1)
    for number, share in enumerate(p.T):
        signal = -p * share[:, None].sqrt()
        signal[:, number] += share.sqrt()
        yield flush_tiny(signal)
