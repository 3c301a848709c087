"""Compares the fast per-sample gradients of every layer with autograd on a few samples.

A recorded use of a layer can mislead: the model may reorder the samples, put the positions first, or use a parameter a
second time in a way that is not recorded. So no layer is trusted until its gradients agree with those of autograd.
"""

import json
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_pareto.influence.gradients import Forward, GradientProbe, Plan
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.layouts import Layout, items_per_sample
from lightning_pareto.influence.recorder import Expansion
from lightning_pareto.influence.task import BatchError

VERIFICATION_SAMPLES = 5
"""How many samples to compare on. It takes at least two to tell the layouts apart."""

LOGIT_TOLERANCE = 1e-3
"""Largest relative change of the logits at which an expansion of shared tensors is accepted."""

GRADIENT_TOLERANCE, GRADIENT_TOLERANCE_HALF = 1e-3, 5e-2
"""Largest relative difference from autograd at which a layer is trusted. The second is for half precision."""

ROUNDING, ROUNDING_HALF = 1e-6, 1e-2
"""Gradients of a parameter this small, relative to the largest of its layer, are rounding errors and need not agree. An
example is the bias of an attention's keys: it cancels in the softmax, so its true gradient is zero."""


def verify(probe: GradientProbe, batch: Any) -> None:
    """Find out how to compute each layer's per-sample gradients, and set the probe's plan accordingly.

    For each layer, the gradients of a few samples are computed from its recorded uses, once per layout, and by one
    backward pass per sample. The first layout that agrees is used from then on. A layer that agrees in neither layout,
    or that the recorder does not see, is looped over: it takes a backward pass per sample, each parameter on its own.

    The gradient of the logits is random, so that samples count equally even if the model is already sure of some. A
    layer whose gradients are all zero on these samples is judged by its shapes. A layer that is not used for them is
    looped over.
    """
    forward = _forward(probe, batch)
    _refuse_reentrant(forward.logits)
    shape = forward.logits.shape
    signal = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(forward.logits.device)
    plan = Plan({}, expansion=probe.plan.expansion)
    uses = forward.uses(signal)
    for layer, expected in _gradients_by_autograd(forward, probe.layers, signal).items():
        layout = None
        if expected is not None and layer in uses:
            half = any(torch.finfo(g.dtype).bits < 32 for _, g in uses[layer])
            agreeing = (each for each in get_args(Layout) if _agrees(forward, layer, each, signal, expected, half))
            layout = next(agreeing, None)
        if layout is None:
            plan.add_looped(layer, expected is not None)
        else:
            plan.factored[layer] = layout
            plan.methods[layer] = "+".join(sorted({use.operation.kind for use, _ in uses[layer]}))
            items = (items_per_sample(use, len(signal), layout) for use, _ in uses[layer])
            plan.items_per_sample[layer] = frozenset(items)
    probe.plan = plan


def plan_to_json(plan: Plan) -> str:
    """Write a plan by the names of its parameters, for another process."""
    factored = [
        [layer.names, layout, plan.methods.get(layer), sorted(plan.items_per_sample.get(layer, ()))]
        for layer, layout in plan.factored.items()
    ]
    looped = [[layer.names, layer in plan.methods] for layer in plan.looped]
    return json.dumps([factored, looped, plan.expansion])


def plan_from_json(text: str, layers: list[Layer]) -> Plan:
    """Read a plan written by :func:`plan_to_json`, for layers of the same names."""
    known = {layer.names: layer for whole in layers for layer in (whole, *whole.split())}
    factored, looped, expansion = json.loads(text)
    plan = Plan({}, expansion=expansion)
    for names, layout, method, items in factored:
        layer = known[tuple(names)]
        plan.factored[layer], plan.methods[layer], plan.items_per_sample[layer] = layout, method, frozenset(items)
    for names, used in looped:
        plan.add_looped(known[tuple(names)], used)
    return plan


def _forward(probe: GradientProbe, batch: Any) -> Forward:
    """A forward pass with the widest expansion of shared tensors that leaves the logits unchanged."""
    probe.plan.expansion = "nothing"
    plain = probe.forward(batch)
    expansions: tuple[Expansion, ...] = ("all", "no vectors")
    for expansion in expansions:
        probe.plan.expansion = expansion
        try:
            forward = probe.forward(batch)
            difference = float((forward.logits - plain.logits).detach().abs().max())
        except Exception:  # the model's own code may fail in any way on the changed shapes
            continue
        if difference <= LOGIT_TOLERANCE * float(plain.logits.detach().abs().max()):
            return forward
    probe.plan.expansion = "nothing"
    return plain


def _refuse_reentrant(logits: Tensor) -> None:
    """Refuse reentrant checkpointing, which hides its layers from ``torch.autograd.grad``."""
    nodes, seen = [logits.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                "the model runs layers under torch.utils.checkpoint with use_reentrant=True, which hides their "
                "gradients from torch.autograd.grad. Pass use_reentrant=False, or switch checkpointing off"
            )
        nodes += [following for following, _ in node.next_functions]


def _gradients_by_autograd(forward: Forward, layers: list[Layer], signal: Tensor) -> dict[Layer, list[Tensor] | None]:
    """Per-sample gradients of each layer's parameters, (B, *shape) each; None for a layer that no sample reaches."""
    rows = [forward.sample_gradients(layers, signal, sample) for sample in range(len(signal))]
    columns = iter(zip(*rows, strict=True))
    result: dict[Layer, list[Tensor] | None] = {}
    for layer in layers:
        found = [next(columns) for _ in layer.parameters]
        stacked = [
            torch.stack([torch.zeros_like(p) if g is None else g for g in column])
            for p, column in zip(layer.parameters, found, strict=True)
        ]
        result[layer] = stacked if any(g is not None for column in found for g in column) else None
    return result


def _agrees(forward: Forward, layer: Layer, layout: Layout, signal: Tensor, expected: list[Tensor], half: bool) -> bool:
    """Whether a layer's gradients, computed from its uses in this layout, agree with the expected ones."""
    trial = forward.only(layer, layout)
    try:
        found = torch.cat([factors.gradients() for _, _, factors in trial.backward(signal)])
    except (BatchError, TypeError):
        return False
    if len(signal) > 1 and not any(bool(e.any()) for e in expected):  # zeros agree in any layout: go by the shapes
        return all(items_per_sample(use, len(signal), layout) == 1 for use, _ in trial.uses(signal).get(layer, []))
    tolerance = GRADIENT_TOLERANCE_HALF if half else GRADIENT_TOLERANCE
    rounding = (ROUNDING_HALF if half else ROUNDING) * max(float(e.abs().max()) for e in expected)
    return all(
        float((f - e).abs().max()) <= max(tolerance * float(e.abs().max()), rounding)
        for f, e in zip(layer.unpack(found), expected, strict=True)
    )
