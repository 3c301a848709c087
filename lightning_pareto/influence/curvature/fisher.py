"""Signals in the logits whose per-sample gradients make up the Fisher information of a softmax classifier."""

import torch
from torch import Tensor


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
    p = logits.detach().double().softmax(dim=1)
    drawn = (p.cumsum(dim=1) < uniforms[:, None].to(p)).sum(dim=1).clamp(max=p.shape[1] - 1)
    return p.scatter_add(1, drawn[:, None], -torch.ones_like(p[:, :1]))


def exact_signals(logits: Tensor) -> Tensor:
    """Signals whose outer products sum to diag(p) − ppᵀ exactly, (C, B, C)."""
    p = logits.detach().double().softmax(dim=1)
    return (torch.diag_embed(p.sqrt()) - p.sqrt()[:, :, None] * p[:, None, :]).transpose(0, 1)
