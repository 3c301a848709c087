"""Signals in the logits whose per-sample gradients make up the Fisher information of a softmax classifier."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_pareto.influence.factors import accurate, without_dust
from lightning_pareto.influence.gradients import Forward
from lightning_pareto.influence.measures import Measure, logit_gradient

FisherName = Literal["sampled", "exact", "empirical"]


@dataclass(frozen=True)
class Fisher:
    """Which Fisher information the curvature is.

    Attributes:
        name: ``"sampled"``, the true Fisher by one label per sample drawn from the model's prediction; ``"exact"``, its
            expectation over the labels, at a backward pass for every class; ``"empirical"``, of the given labels, which
            is no curvature: it is large where labels are wrong.
        uniforms: one uniform number in [0, 1) per dataset index, which fixes the drawn label.
        loss: the training loss, for the empirical Fisher.
    """

    name: FisherName
    uniforms: Tensor
    loss: Measure

    @classmethod
    def draw(cls, name: FisherName, size: int, seed: int, loss: Measure) -> "Fisher":
        """Draw the numbers for a dataset of ``size`` samples."""
        return cls(name, torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), loss)

    def signals(self, forward: Forward, indices: Tensor) -> Iterator[Tensor]:
        """Signals in the logits, (B, C) each, whose squared per-sample gradients add up to the Fisher information."""
        if self.name == "sampled":
            yield sampled_signal(forward.logits, self.uniforms[indices])
        elif self.name == "exact":
            yield from exact_signals(forward.logits)
        else:
            yield logit_gradient(self.loss, forward.logits, forward.targets)


def sampled_signal(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Gradient of the cross-entropy for a label drawn from the model's own prediction.

    Its outer product has the Fisher information diag(p) − ppᵀ as its mean, which is the Gauss-Newton matrix of the
    cross-entropy.

    Args:
        logits: (B, C).
        uniforms: one uniform number in [0, 1) per sample, (B,): fixing it by dataset index makes the draw independent
            of batch size and number of processes.

    Returns:
        p − onehot(drawn label), (B, C).
    """
    p = accurate(logits.detach()).softmax(dim=1)
    drawn = (p.cumsum(dim=1) < uniforms[:, None].to(p)).sum(dim=1).clamp(max=p.shape[1] - 1)
    return without_dust(p.scatter_add(1, drawn[:, None], -torch.ones_like(p[:, :1])))


def exact_signals(logits: Tensor) -> Iterator[Tensor]:
    """Signals whose outer products sum to diag(p) − ppᵀ exactly, (B, C) for each class: √p_c (onehot(c) − p)."""
    p = accurate(logits.detach()).softmax(dim=1)
    for number, share in enumerate(p.T):
        signal = -p * share[:, None].sqrt()
        signal[:, number] += share.sqrt()
        yield without_dust(signal)
