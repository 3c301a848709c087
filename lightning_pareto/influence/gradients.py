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
from lightning_pareto.influence.layouts import Layout, arrange, mixed, trusted
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
    """How each layer's per-sample gradients are had.

    Attributes:
        factored: layers read from the inputs and output gradients of their uses, and where those keep the samples.
        looped: layers that take a backward pass for every sample.
        kinds: what each layer is used for, as far as it was seen in use.
        folds: how many items of each sample stand in the batch dimension of a layer's input, where it was verified.
        expands: what of all that a batch shares is had for every sample.
    """

    factored: dict[Layer, Layout]
    looped: list[Layer] = field(default_factory=list)
    kinds: dict[Layer, str] = field(default_factory=dict)
    folds: dict[Layer, frozenset[int]] = field(default_factory=dict)
    expands: Expansion = "nothing"

    def loop(self, name: str) -> None:
        """Take a backward pass per sample for a layer after all."""
        layer = next(layer for layer in self.factored if layer.name == name)
        kind = self.kinds.pop(layer, None)
        del self.factored[layer]
        alone = layer.split()
        self.looped += alone
        if kind is not None:
            self.kinds |= dict.fromkeys(alone, LOOPED)

    @property
    def shrinks(self) -> bool:
        """Whether a layer known to be used is looped over, so that batches had better be small."""
        return any(layer in self.kinds for layer in self.looped)

    @property
    def layers(self) -> list[Layer]:
        """All of them, in one order."""
        return [*self.factored, *self.looped]

    def without(self, layers: Collection[Layer]) -> set[Layer]:
        """All but these."""
        return set(self.layers) - set(layers)


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode, and back into its own mode afterwards."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training


class GradientProbe:
    """Runs a module on batches and reads per-sample gradients of its layers.

    The forward pass is recorded (:class:`Recorder`); the backward pass asks for the gradients at the recorded edges
    only, which leaves ``.grad`` alone and saves the weight gradients of an ordinary backward pass.

    Args:
        module: the model, put into evaluation mode while the probe is open (:meth:`open`).
        layers: the layers of interest, taken to keep their samples first until :func:`verify` knows better.
        task: reads batches.
        context: entered around the forward pass, for instance autocast.
        memory: limits to keep to.
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
        """The layers of interest, in one order on every process."""
        return self.plan.layers

    def open(self) -> AbstractContextManager[None]:
        """Put every submodule into evaluation mode, and back into its own mode afterwards."""
        return evaluation_mode(self._module)

    def forward(self, batch: Any) -> "Forward":
        """Run the module on one batch and keep what the per-sample gradients need.

        Raises:
            BatchError: if the batch cannot be read.
        """
        targets = self.task.read_targets(batch)
        recorder = Recorder(list(self.plan.factored), len(targets), self.plan.expands)
        with self._context(), _uncompiled(), recorder:
            logits = self.task.read_logits(self._module, batch, targets)
        if not logits.requires_grad:
            raise BatchError(
                "the logits do not depend on any trainable parameter that autograd could follow: look for detach(), "
                "torch.no_grad(), numpy or rounding in forward, and for parameters that are frozen where they are used"
            )
        return Forward(logits, targets, recorder.uses, self.plan, self.memory)


@dataclass(frozen=True, eq=False)
class Forward:
    """One batch after the forward pass.

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

        Args:
            signal: gradient of each sample's scalar with respect to its own logits, (B, C).
            omit: layers that are not wanted.
            uses: what :meth:`uses` gave for the same arguments, to go over the factors a second time.

        Yields:
            A layer, the part of the batch, and the factors of its samples, in at least float32: to be done with before
            the next are asked for, which overwrite them. A layer that no sample of the batch reaches is left out.

        Raises:
            BatchError: if a layer's input cannot be told apart by sample.
        """
        for layer, mine in (self.uses(signal, omit) if uses is None else uses).items():
            yield from self._factored(layer, mine, self._plan.factored[layer])
        looped = [layer for layer in self._plan.looped if layer not in omit]
        if looped:
            yield from self._looped(looped, signal)

    def release(self) -> None:
        """Let the graph go; only the values of the logits are left."""
        self._uses.clear()
        object.__setattr__(self, "logits", self.logits.detach())

    @functools.cached_property
    def _scale(self) -> float:
        """Factor of signals on their way through float16, where small gradients would be lost."""
        return 2.0**12 if any(x.dtype == torch.float16 for x in (self.logits, *(u.x for u in self._uses))) else 1.0

    def only(self, layer: Layer, layout: Layout) -> "Forward":
        """The same forward pass as if one layer, read in this layout, were all there is."""
        uses = [use for use in self._uses if use.layer is layer]
        return Forward(self.logits, self.targets, uses, Plan({layer: layout}), self._memory)

    def uses(self, signal: Tensor, omit: Collection[Layer] = ()) -> Uses:
        """Every use of each layer that the signal reaches, with the gradient of its output."""
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
        known = self._plan.folds.get(layer)
        for use, gradient in uses:
            x = arrange(use.x, use.operation.item, batch, layout, layer)
            g = arrange(gradient, use.operation.output_item, batch, layout, layer)
            if known is not None and not trusted(use, batch, layout, known):
                raise mixed(layer, use.x, batch)
            arranged.append((use.operation, x, g))
        scratch = self._memory.scratch if len(arranged) == 1 else None  # several uses must not share theirs
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
        """One backward pass a sample; every number is a block of its own."""
        for part in self._parts(sum(layer.size for layer in layers)):
            samples = range(part.start, min(part.stop, len(signal)))
            rows = [self.sample_gradients(layers, signal, sample) for sample in samples]
            for number, layer in enumerate(layers):
                column = [row[number] for row in rows]
                if (
                    column[0] is not None
                ):  # the graph is that of the whole batch, so that None holds for all its samples
                    flat = torch.stack([_at_least_float32(g).flatten() for g in column if g is not None])
                    a = flat[:, :, None, None]
                    yield layer, part, DenseFactors(a, torch.ones_like(a))

    def _parts(self, cost: int) -> Iterator[slice]:
        """Cut the batch so that ``cost`` numbers a sample stay below the limit."""
        size = max(1, self._memory.elements // max(cost, 1))
        return (slice(start, start + size) for start in range(0, len(self.targets), size))

    def sample_gradients(self, layers: Sequence[Layer], signal: Tensor, sample: int) -> list[Tensor | None]:
        """Gradient of one sample by autograd, for every parameter of the layers; None where it is not reached."""
        alone = torch.zeros_like(signal, dtype=self.logits.dtype)
        alone[sample] = self._scale * signal[sample]
        parameters = [p for layer in layers for p in layer.parameters]
        found = torch.autograd.grad(self.logits, parameters, alone, retain_graph=True, allow_unused=True)
        return [None if g is None else _dense(g) / self._scale for g in found]


def _uncompiled() -> AbstractContextManager[Any]:
    """Run compiled modules as they were written: a compiled graph cannot be watched."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _dense(x: Tensor) -> Tensor:
    x = x.to_dense() if x.is_sparse else x
    return _at_least_float32(x)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x
