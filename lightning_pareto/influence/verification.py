"""Compares the fast per-sample gradients of every layer with autograd on a few samples.

A recorded use of a layer can mislead: the model may reorder the samples, put the positions first, or use a parameter a
second time in a way that is not recorded. So no layer is trusted until its gradients agree with those of autograd.
"""

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lightning_pareto.data.loaders import size_of_batches
from lightning_pareto.influence.gradients import Forward, GradientProbe, Uses, method_of
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.memory import is_out_of_memory
from lightning_pareto.influence.passes import GradientPass
from lightning_pareto.influence.plan import Layout, Plan, Route, items_per_sample
from lightning_pareto.influence.recorder import Expansion, Use
from lightning_pareto.influence.task import BatchError

VERIFICATION_SAMPLES = 5
"""How many samples to compare on. It takes at least two to tell the layouts apart."""

BATCHES_CHECKED, SMALL_BATCH, LARGEST_BATCH = 5, 16, 64
"""How many batches must keep the samples in order, of how many samples, and how large the last one is at most."""

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
    layers, parameters = probe.layers, [p for layer in probe.layers for p in layer.parameters]
    gradients = forward.sample_gradients(layers, signal, range(len(signal)))
    expected = {p: found for p, found in zip(parameters, gradients, strict=True) if found is not None}
    uses = forward.uses(signal)
    routes = {layer: _route(forward, layer, uses.get(layer, []), expected) for layer in layers}
    plan = Plan({layer: route for layer, route in routes.items() if route}, expansion=probe.plan.expansion)
    for part in [part for layer, route in routes.items() if route is None for part in layer.split()]:
        plan.loop(part, part.parameters[0] in expected)
    probe.plan = plan
    _follow_derived_tensors(probe, batch, signal, uses, expected)


def _follow_derived_tensors(
    probe: GradientProbe, batch: Any, signal: Tensor, before: Uses, expected: dict[nn.Parameter, Tensor]
) -> None:
    """Try the tensors that are computed from the parameters of looped layers. No other layer may lose a use."""
    plan = probe.plan
    parts = [part for part, in_use in plan.looped.items() if in_use]
    if not parts:
        return
    probe.plan = Plan(plan.factored | dict.fromkeys(parts, Route("sample first", derived=True)), {}, plan.expansion)
    try:
        forward = probe.forward(batch)
        uses = forward.uses(signal)
    except Exception as error:  # the model's own code may fail in any way on what the recorder changes
        if is_out_of_memory(error):
            raise
        probe.plan = plan
        return
    if all(len(uses.get(layer, [])) == len(before[layer]) for layer in plan.factored if layer in before):
        routes = {part: _route(forward, part, uses.get(part, []), expected, derived=True) for part in parts}
        plan.factored |= {part: route for part, route in routes.items() if route}
        plan.looped = {part: in_use for part, in_use in plan.looped.items() if part not in plan.factored}
    probe.plan = plan


def _route(
    forward: Forward,
    layer: Layer,
    uses: list[tuple[Use, Tensor]],
    expected: dict[nn.Parameter, Tensor],
    derived: bool = False,
) -> Route | None:
    """The first layout in which the layer's gradients agree with those by autograd; None if none does."""
    by_autograd = [expected.get(p) for p in layer.parameters]
    for layout in get_args(Layout) if uses and any(g is not None for g in by_autograd) else ():
        if _agrees(forward, layer, uses, Route(layout, method_of(uses), derived=derived), by_autograd):
            items = {items_per_sample(use, len(forward.targets), layout) for use, _ in uses}
            return Route(layout, method_of(uses), sorted(items), derived)
    return None


def misread_layers(data: GradientPass, count: int = BATCHES_CHECKED) -> list[Layer]:
    """Layers of the plan that see the samples of some batch in another order, or mixed, or that have other uses there.

    The few samples of :func:`verify` may be in the model's order by chance, for instance if all are equally long. They
    may also miss a branch of the model. So in some batches, one of them as large as the loader's or nearly, half of the
    samples get no signal, and must get no gradient in any layer. The others' must add up to the gradient by autograd.

    Args:
        data: the samples.
        count: number of batches.
    """
    found: dict[Layer, None] = {}
    size = min(size_of_batches(data.loader), data.probe.memory.batch or SMALL_BATCH, SMALL_BATCH, data.size)
    order = data.sample(count * size, seed=1).indices
    batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    if data.batch_size > size and not data.one_by_one:
        batches[-1:] = [data.sample(min(data.batch_size, LARGEST_BATCH), seed=2).indices]
    for number, batch in enumerate(data.batches_of(batches)):
        with data.locating_errors(batches[number]):
            forward = data.probe.forward(batch)
        generator = torch.Generator().manual_seed(number)
        signal = torch.randn(forward.logits.shape, generator=generator)
        silent = torch.randperm(len(signal), generator=generator)[: len(signal) // 2]
        signal[silent] = 0
        layers = list(data.probe.plan.factored)
        uses, totals = forward.uses_and_totals(signal.to(forward.logits.device), layers)
        if len(silent):
            found |= dict.fromkeys(forward.reordered_layers(uses, silent))
        found |= dict.fromkeys(_layers_with_other_sums(forward, uses, totals, data.probe.plan))
    return list(found)


def _layers_with_other_sums(forward: Forward, uses: Uses, totals: Sequence[Tensor | None], plan: Plan) -> list[Layer]:
    """Factored layers whose per-sample gradients do not add up to the gradient by autograd."""
    layers, remaining = list(plan.factored), iter(totals)
    expected = {layer: [next(remaining) for _ in layer.parameters] for layer in layers}
    sizes = {layer: [0.0 if e is None else _largest(e) for e in found] for layer, found in expected.items()}
    largest = max((size for found in sizes.values() for size in found), default=0.0)
    half = forward.logits.element_size() < 4 or any(use.x.element_size() < 4 for use in forward.recorded)
    tolerance, rounding = (GRADIENT_TOLERANCE_HALF, ROUNDING_HALF) if half else (GRADIENT_TOLERANCE, ROUNDING)
    wrong = []
    for layer in layers:
        found: Tensor | None = None
        try:
            for part, factors in forward.factors(layer, uses[layer], plan.factored[layer]) if layer in uses else ():
                found = factors.zeros(1) if found is None else found
                factors.add_to(found, torch.zeros_like(forward.targets[part]))
        except BatchError:
            wrong.append(layer)
            continue
        ours = [torch.zeros_like(p) for p in layer.parameters] if found is None else [g[0] for g in layer.unpack(found)]
        pairs = zip(ours, expected[layer], sizes[layer], strict=True)
        if any(e is not None and _largest(g.sub_(e)) > tolerance * size + rounding * largest for g, e, size in pairs):
            wrong.append(layer)
    return wrong


def _forward(probe: GradientProbe, batch: Any) -> Forward:
    """A forward pass with the widest expansion of shared tensors that leaves the logits unchanged."""
    probe.plan.expansion = "nothing"
    plain = probe.forward(batch)
    for expansion in get_args(Expansion)[:2]:
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


def _agrees(
    forward: Forward, layer: Layer, uses: list[tuple[Use, Tensor]], route: Route, by_autograd: list[Tensor | None]
) -> bool:
    """Whether a layer's gradients, computed from its uses in this layout, agree with those by autograd."""
    try:
        parts = [factors.gradients() for _, factors in forward.factors(layer, uses, route)]
    except BatchError:
        return False
    gradients = parts[0] if len(parts) == 1 else torch.cat(parts)
    if gradients[0].numel() != layer.size:  # this use of a parameter gives the layer's gradient another shape
        return False
    samples, found = len(gradients), layer.unpack(gradients)
    if gradients.is_complex() or any(e is not None and e.is_complex() for e in by_autograd):
        return False
    sizes = [0.0 if e is None else _largest(e) for e in by_autograd]
    if samples > 1 and not any(sizes):  # zeros agree in any layout: go by the shapes
        return all(items_per_sample(use, samples, route.layout) == 1 for use, _ in uses)
    half = any(torch.finfo(g.dtype).bits < 32 for _, g in uses)
    tolerance = GRADIENT_TOLERANCE_HALF if half else GRADIENT_TOLERANCE
    rounding = (ROUNDING_HALF if half else ROUNDING) * max(sizes)
    return all(
        _largest(f if e is None else f.sub_(e)) <= max(tolerance * size, rounding)
        for f, e, size in zip(found, by_autograd, sizes, strict=True)
    )


def _largest(x: Tensor) -> float:
    """Largest absolute value; NaN if there is one."""
    return float(torch.maximum(*(bound.abs() for bound in torch.aminmax(x))))
