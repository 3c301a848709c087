"""Trust nothing: the fast per-sample gradients of every layer are compared with autograd on a few samples."""

from typing import Any, get_args

import torch
from torch import Tensor

from lightning_pareto.influence.gradients import Forward, GradientProbe, Layout, Plan
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.task import BatchError

VERIFIED = 3
"""How many samples to compare on; with fewer than two the layouts cannot be told apart."""

AGREEMENT = 1e-3
"""Largest relative difference from autograd at which a layer is taken to be read rightly."""

AGREEMENT_HALF = 5e-2
"""The same where the model computes in half precision."""


def verify(probe: GradientProbe, batch: Any) -> Plan:
    """Find out how each layer's per-sample gradients are had, and set the probe to it.

    Every layer's gradients of the samples of a small batch are had twice: fast, in each layout, and by a backward pass
    for each sample. A layer that comes out right in neither layout, or that the recorder does not see, will take a
    backward pass for every sample, its parameters each alone.

    The signal is random, so that a sample that the model is already sure of tells as much as any other. A layer whose
    gradient is zero on these samples stays as it is; one that they do not reach is looped over.

    Args:
        probe: must be open.
        batch: a few samples, at least two for the layouts to be told apart.

    Returns:
        The plan, which the probe now follows.
    """
    forward = probe.forward(batch)
    shape = forward.logits.shape
    signal = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(forward.logits.device)
    plan = Plan({})
    used = forward.uses(signal)
    for layer, expected in _expected(forward, probe.layers, signal).items():
        layout = None
        if expected is not None and layer in used:
            half = any(torch.finfo(g.dtype).bits < 32 for _, g in used[layer])
            trials = (way for way in get_args(Layout) if _agrees(forward, layer, way, signal, expected, half))
            layout = next(trials, None)
        if layout is None:
            alone = layer.split()
            plan.looped += alone
            if expected is not None:
                plan.kinds |= dict.fromkeys(alone, "a backward pass per sample")
        else:
            plan.factored[layer] = layout
            plan.kinds[layer] = "+".join(sorted({use.operation.kind for use, _ in used[layer]}))
    probe.plan = plan
    return plan


def _expected(forward: Forward, layers: list[Layer], signal: Tensor) -> dict[Layer, list[Tensor] | None]:
    """By autograd, every parameter's gradients, (B, *shape), of every layer; None where nothing is reached."""
    rows = [forward.sample_gradients(layers, signal, sample) for sample in range(len(signal))]
    columns = iter(zip(*rows, strict=True))
    result: dict[Layer, list[Tensor] | None] = {}
    for layer in layers:
        mine = [next(columns) for _ in layer.parameters]
        stacked = [
            torch.stack([torch.zeros_like(p) if g is None else g for g in column])
            for p, column in zip(layer.parameters, mine, strict=True)
        ]
        result[layer] = stacked if any(g is not None for column in mine for g in column) else None
    return result


def _agrees(forward: Forward, layer: Layer, layout: Layout, signal: Tensor, expected: list[Tensor], half: bool) -> bool:
    trial = forward.only(layer, layout)
    try:
        found = torch.cat([factors.gradients() for _, _, factors in trial.backward(signal)])
    except (BatchError, TypeError):
        return False
    tolerance = AGREEMENT_HALF if half else AGREEMENT
    return all(
        float((f - e).abs().max()) <= tolerance * float(e.abs().max())
        for f, e in zip(layer.unpack(found), expected, strict=True)
    )
