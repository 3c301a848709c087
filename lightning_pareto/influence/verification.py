"""Trust nothing: the fast per-sample gradients of every layer are compared with autograd on a few samples."""

import json
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_pareto.influence.gradients import LOOPED, Forward, GradientProbe, Plan
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.layouts import Layout, fold
from lightning_pareto.influence.recorder import Expansion
from lightning_pareto.influence.task import BatchError

VERIFIED = 5
"""How many samples to compare on; with fewer than two the layouts cannot be told apart."""

SAME = 1e-3
"""Largest relative difference of the logits with and without expanding what a batch shares."""

AGREEMENT = 1e-3
"""Largest relative difference from autograd at which a layer is taken to be read rightly."""

AGREEMENT_HALF = 5e-2
"""The same where the model computes in half precision."""

ROUNDING, ROUNDING_HALF = 1e-6, 1e-2
"""Gradients of a parameter that are so small beside the largest of its layer are rounding errors, and need not agree:
those of the bias of an attention's keys cancel out, as the softmax does not see it."""


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
    forward = _forward(probe, batch)
    _refuse_reentrant(forward.logits)
    shape = forward.logits.shape
    signal = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(forward.logits.device)
    plan = Plan({}, expands=probe.plan.expands)
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
                plan.kinds |= dict.fromkeys(alone, LOOPED)
        else:
            plan.factored[layer] = layout
            plan.kinds[layer] = "+".join(sorted({use.operation.kind for use, _ in used[layer]}))
            plan.folds[layer] = frozenset(fold(use, len(signal), layout) for use, _ in used[layer])
    probe.plan = plan
    return plan


def plan_as_text(plan: Plan) -> str:
    """A plan by the names of its parameters, for another process."""
    factored = [
        [layer.names, layout, plan.kinds.get(layer), sorted(plan.folds.get(layer, ()))]
        for layer, layout in plan.factored.items()
    ]
    looped = [[layer.names, layer in plan.kinds] for layer in plan.looped]
    return json.dumps([factored, looped, plan.expands])


def plan_from(text: str, layers: list[Layer]) -> Plan:
    """Undo :func:`plan_as_text` for the same layers, or those of a model of the same names."""
    known = {layer.names: layer for whole in layers for layer in (whole, *whole.split())}
    factored, looped, expands = json.loads(text)
    plan = Plan({}, expands=expands)
    for names, layout, kind, folds in factored:
        layer = known[tuple(names)]
        plan.factored[layer], plan.kinds[layer], plan.folds[layer] = layout, kind, frozenset(folds)
    for names, used in looped:
        layer = known[tuple(names)]
        plan.looped.append(layer)
        if used:
            plan.kinds[layer] = LOOPED
    return plan


def _forward(probe: GradientProbe, batch: Any) -> Forward:
    """A forward pass that gives the logits of an undisturbed one, if need be without expanding what is shared."""
    probe.plan.expands = "nothing"
    plain = probe.forward(batch)
    ways: tuple[Expansion, ...] = ("all", "no vectors")
    for way in ways:
        probe.plan.expands = way
        try:
            forward = probe.forward(batch)
            difference = float((forward.logits - plain.logits).detach().abs().max())
        except Exception:  # the model's own code met other shapes than it reckons with, in any way it likes
            continue
        if difference <= SAME * float(plain.logits.detach().abs().max()):
            return forward
    probe.plan.expands = "nothing"
    return plain


def _refuse_reentrant(logits: Tensor) -> None:
    """Refuse what hides its layers from ``torch.autograd.grad``."""
    nodes, seen = [logits.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                "the model runs layers under torch.utils.checkpoint with use_reentrant=True, which hides their "
                "gradients from torch.autograd.grad: say use_reentrant=False, or switch checkpointing off"
            )
        nodes += [following for following, _ in node.next_functions]


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
    undecided = len(signal) > 1 and not any(bool(e.any()) for e in expected)
    if undecided:  # zero agrees with anything: go by the shape
        return all(fold(use, len(signal), layout) == 1 for use, _ in trial.uses(signal).get(layer, []))
    rounding = (ROUNDING_HALF if half else ROUNDING) * max(float(e.abs().max()) for e in expected)
    return all(
        float((f - e).abs().max()) <= max(tolerance * float(e.abs().max()), rounding)
        for f, e in zip(layer.unpack(found), expected, strict=True)
    )
