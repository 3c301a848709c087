"""Per-sample gradients of a module's layers, without touching ``.grad``."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pareto.influence.factors import DenseFactors, Factors
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.layouts import Layout, MixedSamplesError, arrange, keeps_samples_apart
from lightning_pareto.influence.memory import Memory
from lightning_pareto.influence.operations import Operation, concatenate
from lightning_pareto.influence.recorder import Expansion, Recorder, Use
from lightning_pareto.influence.scratch import Scratch
from lightning_pareto.influence.task import BatchError, ClassificationTask

Uses = dict[Layer, list[tuple[Use, Tensor]]]
"""Every use of each layer, with the gradient of its output."""

LOOPED = "a backward pass per sample"


@dataclass
class Plan:
    """How to compute each layer's per-sample gradients.

    Attributes:
        factored: layers whose gradients come from the inputs and output gradients of their uses, with their layout.
        looped: layers that take a backward pass per sample.
        methods: what the gradients of each layer in use come from, in words for the user, such as ``"linear"``.
        items_per_sample: the numbers of :func:`items_per_sample` in the verified uses of each factored layer.
        expansion: which tensors shared by the batch are expanded per sample.
    """

    factored: dict[Layer, Layout]
    looped: list[Layer] = field(default_factory=list)
    methods: dict[Layer, str] = field(default_factory=dict)
    items_per_sample: dict[Layer, frozenset[int]] = field(default_factory=dict)
    expansion: Expansion = "nothing"

    def add_looped(self, layer: Layer, used: bool) -> None:
        """Loop over a layer's parameters, each on its own. ``used`` says whether the layer was seen in use."""
        parameters = layer.split()
        self.looped += parameters
        if used:
            self.methods |= dict.fromkeys(parameters, LOOPED)

    def loop(self, name: str) -> None:
        """Loop over a layer that was factored so far."""
        layer = next(layer for layer in self.factored if layer.name == name)
        del self.factored[layer]
        self.add_looped(layer, self.methods.pop(layer, None) is not None)

    @property
    def needs_small_batches(self) -> bool:
        """Whether a layer in use is looped over; each backward pass then goes through the whole batch."""
        return any(layer in self.methods for layer in self.looped)

    @property
    def layers(self) -> list[Layer]:
        """All layers, in the same order on every process."""
        return [*self.factored, *self.looped]

    def all_but(self, layers: Collection[Layer]) -> set[Layer]:
        """All layers except these."""
        return set(self.layers) - set(layers)


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode, and restore each one's own mode on exit."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training


class GradientProbe:
    """Runs a module on batches and computes per-sample gradients of its layers.

    A :class:`Recorder` watches the forward pass. The backward pass then asks only for the gradients at the recorded
    places. That leaves ``.grad`` alone and saves the weight gradients of an ordinary backward pass. Use it within
    :meth:`open`.

    Args:
        module: the model.
        layers: the layers to cover, assumed to keep their samples first until :func:`verify` has checked them.
        task: reads batches.
        context: entered around the forward pass, for instance autocast.
        memory: limits to observe.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[Layer],
        task: ClassificationTask,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        memory: Memory | None = None,
    ) -> None:
        self.plan = Plan(dict.fromkeys(layers, "sample first"))
        self.task = task
        self.memory = memory or Memory()
        self._module = module
        self._context = context

    @property
    def layers(self) -> list[Layer]:
        """The covered layers, in the same order on every process."""
        return self.plan.layers

    def open(self) -> AbstractContextManager[None]:
        """Context in which the module is in evaluation mode."""
        return evaluation_mode(self._module)

    def forward(self, batch: Any) -> "Forward":
        """Run the module on one batch and keep what per-sample gradients need.

        Raises:
            BatchError: if the batch cannot be read.
        """
        targets = self.task.read_targets(batch)
        recorder = Recorder(list(self.plan.factored), len(targets), self.plan.expansion)
        with self._context(), _uncompiled(), recorder:
            logits = self.task.read_logits(self._module, batch, targets)
        if not logits.requires_grad:
            raise BatchError(
                "the logits do not depend on any trainable parameter that autograd can follow. Look for detach(), "
                "torch.no_grad(), numpy or rounding in forward, and for parameters that forward freezes"
            )
        return Forward(logits, targets, recorder.uses, self.plan, self.memory)


@dataclass(frozen=True, eq=False)
class Forward:
    """One batch after the forward pass.

    The *signal* of a backward pass is the gradient of each sample's scalar (its loss, say) with respect to its own
    logits, (B, C).

    Attributes:
        logits: (B, C).
        targets: (B,).
    """

    logits: Tensor
    targets: Tensor
    _uses: list[Use] = field(repr=False)
    _plan: Plan = field(repr=False)
    _memory: Memory = field(repr=False)

    def backward(
        self, signal: Tensor, omit: Collection[Layer] = (), uses: Uses | None = None
    ) -> Iterator[tuple[Layer, slice, Factors]]:
        """Yield the factors of per-sample gradients, layer by layer and in parts of the batch that fit the memory.

        To go over the factors a second time, pass the result of :meth:`uses` for the same arguments.

        Yields:
            A layer, a part of the batch, and the factors of its samples in at least float32. The next factors may
            overwrite them. Layers in ``omit`` and layers that the signal does not reach are left out.

        Raises:
            BatchError: if a layer's input does not keep the samples apart.
        """
        for layer, found in (self.uses(signal, omit) if uses is None else uses).items():
            yield from self._factored(layer, found, self._plan.factored[layer])
        looped = [layer for layer in self._plan.looped if layer not in omit]
        if looped:
            yield from self._looped(looped, signal)

    def release(self) -> None:
        """Free the graph. Only the values of the logits remain."""
        self._uses.clear()
        object.__setattr__(self, "logits", self.logits.detach())

    @functools.cached_property
    def _scale(self) -> float:
        """Factor on signals that pass through float16, where small gradients would underflow."""
        return 2.0**12 if any(x.dtype == torch.float16 for x in (self.logits, *(u.x for u in self._uses))) else 1.0

    def only(self, layer: Layer, layout: Layout) -> "Forward":
        """The same forward pass, reduced to one layer in a given layout."""
        uses = [use for use in self._uses if use.layer is layer]
        return Forward(self.logits, self.targets, uses, Plan({layer: layout}), self._memory)

    def uses(self, signal: Tensor, omit: Collection[Layer] = ()) -> Uses:
        """Every use of each factored layer that the signal reaches, with the gradient of its output."""
        wanted = [use for use in self._uses if use.layer not in omit]
        if not wanted:
            return {}
        edges = [use.edge for use in wanted]
        gradients = torch.autograd.grad(
            self.logits, edges, (self._scale * signal).to(self.logits.dtype), retain_graph=True, allow_unused=True
        )
        found: Uses = {}
        for use, gradient in zip(wanted, gradients, strict=True):
            if gradient is not None:
                found.setdefault(use.layer, []).append((use, gradient))
        return found

    @torch.no_grad()
    def _factored(
        self, layer: Layer, uses: list[tuple[Use, Tensor]], layout: Layout
    ) -> Iterator[tuple[Layer, slice, Factors]]:
        batch = len(self.targets)
        arranged: list[tuple[Operation, Tensor, Tensor]] = []
        verified = self._plan.items_per_sample.get(layer)
        for use, gradient in uses:
            x = arrange(use.x, use.operation.item, batch, layout, layer)
            g = arrange(gradient, use.operation.output_item, batch, layout, layer)
            if verified is not None and not keeps_samples_apart(use, batch, layout, verified):
                raise MixedSamplesError(layer, use.x, batch)
            arranged.append((use.operation, x, g))
        scratch = self._memory.scratch if len(arranged) == 1 else None  # several uses must not share buffers
        cost = sum(operation.cost(x, g) for operation, x, g in arranged)
        for part in self._parts(cost):
            factors = [
                operation.factors(_at_least_float32(x[part]), self._unscaled(g[part]), scratch or Scratch())
                for operation, x, g in arranged
            ]
            yield layer, part, concatenate(factors)

    def _unscaled(self, g: Tensor) -> Tensor:
        g = _at_least_float32(g)
        return g if self._scale == 1 else g / self._scale

    def _looped(self, layers: list[Layer], signal: Tensor) -> Iterator[tuple[Layer, slice, Factors]]:
        """One backward pass per sample. Each number of a gradient becomes a block of its own, (B, P, 1, 1)."""
        for part in self._parts(sum(layer.size for layer in layers)):
            samples = range(part.start, min(part.stop, len(signal)))
            rows = [self.sample_gradients(layers, signal, sample) for sample in samples]
            for number, layer in enumerate(layers):
                column = [row[number] for row in rows]
                if column[0] is not None:  # all samples share one graph, so None for one means None for all
                    a = torch.stack([g.flatten() for g in column if g is not None])[:, :, None, None]
                    yield layer, part, DenseFactors(a, torch.ones_like(a))

    def _parts(self, cost: int) -> Iterator[slice]:
        """Cut the batch so that ``cost`` numbers per sample stay below the memory limit."""
        size = max(1, self._memory.elements // max(cost, 1))
        return (slice(start, start + size) for start in range(0, len(self.targets), size))

    def sample_gradients(self, layers: Sequence[Layer], signal: Tensor, sample: int) -> list[Tensor | None]:
        """One sample's gradient by autograd, for each parameter of the layers; None where the signal does not reach."""
        alone = torch.zeros_like(signal, dtype=self.logits.dtype)
        alone[sample] = self._scale * signal[sample]
        parameters = [p for layer in layers for p in layer.parameters]
        found = torch.autograd.grad(self.logits, parameters, alone, retain_graph=True, allow_unused=True)
        return [None if g is None else _dense(g) / self._scale for g in found]


def _uncompiled() -> AbstractContextManager[Any]:
    """Run compiled modules eagerly, because the recorder cannot see into a compiled graph."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _dense(x: Tensor) -> Tensor:
    return _at_least_float32(x.to_dense() if x.is_sparse else x)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x
