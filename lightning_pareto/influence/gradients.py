"""Per-sample gradients of a module's layers, without touching ``.grad``."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_pareto.influence.factors import DenseFactors, Factors
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.memory import Memory, Scratch, is_out_of_memory
from lightning_pareto.influence.operations import Operation, concatenate
from lightning_pareto.influence.plan import Layout, Plan, Route
from lightning_pareto.influence.recorder import Recorder, Use
from lightning_pareto.influence.task import BatchError, ClassificationTask

Uses = dict[Layer, list[tuple[Use, Tensor]]]
"""Every use of each layer, with the gradient of its output."""

SILENCE = 1e-6
"""Largest output gradient of a sample without a signal, relative to those with one, that counts as rounding."""

LARGEST_KEPT = 2**20
"""Largest number of elements of a tensor in an attribute that is restored after forward passes."""


class MixedSamplesError(BatchError):
    """The input of :attr:`layer` does not keep the samples apart."""

    def __init__(self, layer: Layer, x: Tensor, batch: int) -> None:
        super().__init__(
            f"layer {layer.name!r} was called on a tensor of shape {tuple(x.shape)} for {batch} samples, and it is "
            f"unclear which part belongs to which sample. Leave the layer out: layers={['!' + n for n in layer.names]}"
        )
        self.layer = layer


@contextlib.contextmanager
def _mixed_on_failure(layer: Layer, x: Tensor, batch: int) -> Iterator[None]:
    """Turn any failure on unforeseen shapes into a MixedSamplesError, upon which the layer is looped over."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise MixedSamplesError(layer, x, batch) from error


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode, and restore each one's own mode, and all buffers, on exit.

    The user's ``train`` and ``eval`` are not called. Some adapters fold their weights into others there.
    """
    modes = {submodule: submodule.training for submodule in module.modules()}
    for submodule in modes:
        submodule.training = False
    try:
        with unchanged_state(module):
            yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training


@contextlib.contextmanager
def unchanged_state(module: nn.Module) -> Iterator[None]:
    """Restore buffers, counters and tensors in attributes on exit, which a forward pass may change in any mode."""
    named = [(each, name, buffer) for each in module.modules() for name, buffer in each.named_buffers(recurse=False)]
    kept = [found for found in named if not is_lazy(found[2])]
    values = [buffer.detach().clone() for _, _, buffer in kept]
    attributes = [
        (each, name, value, value.detach().clone() if isinstance(value, Tensor) else torch.empty(0))
        for each in module.modules()
        if not any(map(is_lazy, each.parameters(recurse=False)))
        for name, value in vars(each).items()
        if _is_counter(value)
    ]
    try:
        yield
    finally:
        for owner, name, value, content in attributes:
            if name in vars(owner) and vars(owner)[name] is not value:
                vars(owner)[name] = value
            if isinstance(value, Tensor) and value.shape == content.shape and not torch.equal(value, content):
                with torch.no_grad():
                    value.copy_(content)
        for (owner, name, buffer), value in zip(kept, values, strict=True):
            if getattr(owner, name, buffer) is not buffer:
                setattr(owner, name, buffer)
            if buffer.shape != value.shape:
                buffer.data = value
            elif not torch.equal(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)


def _is_counter(value: Any) -> bool:
    """Whether an attribute may count forward passes, or keep something from one to the next. Larger ones hold data."""
    if isinstance(value, Tensor):
        return value.numel() <= LARGEST_KEPT
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


@contextlib.contextmanager
def _without_checkpointing() -> Iterator[None]:
    """Keep the activations that the backward pass would compute again, without a recorder and so by other operations.

    The recorder keeps the layers' inputs anyway. All of torch's checkpointing that is not reentrant goes by this hook.
    """
    hook = torch.utils.checkpoint._checkpoint_hook
    torch.utils.checkpoint._checkpoint_hook = lambda _frame: nullcontext()  # type: ignore[assignment,misc,return-value]
    try:
        yield
    finally:
        torch.utils.checkpoint._checkpoint_hook = hook  # type: ignore[misc]


class GradientProbe:
    """Runs a module on batches and computes per-sample gradients of its layers.

    A :class:`Recorder` watches the forward pass. The backward pass then asks only for the gradients at the recorded
    places. That leaves ``.grad`` alone and saves the weight gradients of an ordinary backward pass. Use it within
    :meth:`open`.

    The layers are assumed to keep their samples first until :func:`verify` has checked them. The context is entered
    around the forward pass, for instance autocast.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[Layer],
        task: ClassificationTask,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        memory: Memory | None = None,
    ) -> None:
        self.plan = Plan(dict.fromkeys(layers, Route("sample first")))
        self.task = task
        self.memory = memory or Memory()
        self._module = module
        self.context = context

    @property
    def layers(self) -> list[Layer]:
        """The covered layers, in the same order on every process."""
        return list(self.plan.methods)

    def open(self) -> AbstractContextManager[None]:
        """Context in which the module is in evaluation mode."""
        return evaluation_mode(self._module)

    def forward(self, batch: Any, differentiable: bool = True) -> "Forward":
        """Run the module on one batch and keep what per-sample gradients need, or the logits only."""
        torch.clear_autocast_cache()  # the model's own autocast may hold copies of parameters that have moved
        targets = self.task.read_targets(batch)
        plan = self.plan if differentiable else Plan({})
        recorder = Recorder(batch, len(targets), plan.direct, plan.derived, plan.expansion)
        # compiled modules run eagerly, because the recorder cannot see into a compiled graph
        eagerly = torch.compiler.set_stance("force_eager")
        with torch.set_grad_enabled(differentiable), self.context(), eagerly, _without_checkpointing(), recorder:
            logits = self.task.read_logits(self._module, batch, targets)
        if differentiable and not logits.requires_grad:
            raise BatchError(
                "the logits do not depend on any trainable parameter that autograd can follow. Look for detach(), "
                "torch.no_grad(), numpy or rounding in forward, and for parameters that forward freezes"
            )
        return Forward(logits, targets, recorder.uses, plan, self.memory)


@dataclass(frozen=True, eq=False)
class Forward:
    """One batch after the forward pass, with its logits, (B, C), and its targets, (B,).

    The *signal* of a backward pass is the gradient of each sample's scalar (its loss, say) with respect to its own
    logits, (B, C).
    """

    logits: Tensor
    targets: Tensor
    _uses: list[Use] = field(repr=False)
    _plan: Plan = field(repr=False)
    _memory: Memory = field(repr=False)

    def backward(
        self, signal: Tensor, omit: Collection[Layer] = (), uses: Uses | None = None
    ) -> Iterator[tuple[Layer, slice, Factors]]:
        """Yield a layer, a part of the batch that fits the memory, and the factors of its per-sample gradients.

        The factors are at least float32, and the next ones may overwrite them. Layers in ``omit`` and layers that the
        signal does not reach are left out. To go over the factors a second time, pass the result of :meth:`uses` for
        the same arguments.
        """
        for layer, found in (self.uses(signal, omit) if uses is None else uses).items():
            for part, factors in self.factors(layer, found, self._plan.factored[layer]):
                yield layer, part, factors
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

    def uses(self, signal: Tensor, omit: Collection[Layer] = ()) -> Uses:
        """Every use of each factored layer that the signal reaches, with the gradient of its output."""
        return self.uses_and_totals(signal, (), omit)[0]

    def uses_and_totals(
        self, signal: Tensor, layers: Sequence[Layer], omit: Collection[Layer] = ()
    ) -> tuple[Uses, list[Tensor | None]]:
        """The same, and the gradients of all samples together by autograd, in one backward pass.

        There is one for each parameter of the layers; None if the signal does not reach it.
        """
        wanted = [use for use in self._uses if use.layer not in omit]
        places: list[Any] = [*(use.edge for use in wanted), *(p for layer in layers for p in layer.parameters)]
        if not places:
            return {}, []
        scaled = (self._scale * signal).to(self.logits.dtype)
        gradients = torch.autograd.grad(self.logits, places, scaled, retain_graph=True, allow_unused=True)
        found: Uses = {}
        for use, gradient in zip(wanted, gradients, strict=False):
            if gradient is not None:
                found.setdefault(use.layer, []).append((use, gradient))
        return found, [None if g is None else self._unscaled(g) for g in gradients[len(wanted) :]]

    def _unscaled(self, gradient: Tensor) -> Tensor:
        gradient = _at_least_float32(gradient.to_dense() if gradient.is_sparse else gradient)
        return gradient if self._scale == 1 else gradient / self._scale

    def reordered_layers(self, uses: Uses, silent: Tensor) -> list[Layer]:
        """Factored layers in which some of the ``silent`` samples get a gradient, although their signal is zero.

        They see the samples in another order than the batch, or mixed.
        """
        found, batch = [], len(self.targets)
        for layer, uses_of_layer in uses.items():
            route = self._plan.factored[layer]
            for use, gradient in uses_of_layer:
                if route.keeps_samples_apart(use, batch):
                    rows = _arranged(gradient, len(use.leading_shape), batch, route.layout).flatten(1).abs().amax(dim=1)
                    if float(rows[silent].max()) > SILENCE * float(rows.max()):
                        found.append(layer)
                        break
        return found

    @property
    def recorded(self) -> Sequence[Use]:
        """Every recorded use of a layer."""
        return self._uses

    @torch.no_grad()
    def factors(self, layer: Layer, uses: list[tuple[Use, Tensor]], route: Route) -> Iterator[tuple[slice, Factors]]:
        """Yield the factors of one layer from its uses, in parts of the batch; see :meth:`backward`."""
        batch = len(self.targets)
        arranged: list[tuple[Operation, Tensor, Tensor]] = []
        for use, gradient in uses:
            if not route.keeps_samples_apart(use, batch) or (route.derived and method_of(uses) != route.method):
                raise MixedSamplesError(layer, use.x, batch)
            with _mixed_on_failure(layer, use.x, batch):
                x, g = (_arranged(z, len(use.leading_shape), batch, route.layout) for z in (use.x, gradient))
            arranged.append((use.operation, x, g))
        scratch = self._memory.scratch if len(arranged) == 1 else None  # several uses must not share buffers
        cost = sum(operation.cost(x, g) for operation, x, g in arranged) + (len(arranged) > 1) * layer.size
        for part in self._parts(cost):
            factors = []
            with _mixed_on_failure(layer, uses[0][0].x, batch):
                for operation, x, g in arranged:
                    x, g = _at_least_float32(x[part]), _at_least_float32(g[part])
                    g = g if self._scale == 1 else g / self._scale
                    factors.append(operation.factors(x, g, scratch or Scratch()))
                joined = concatenate(factors)
            yield part, joined

    def _looped(self, layers: list[Layer], signal: Tensor) -> Iterator[tuple[Layer, slice, Factors]]:
        """Yield factors in which each number of a gradient is a block of its own, (B, P, 1, 1)."""
        for part in self._parts(sum(layer.size for layer in layers)):
            gradients = self.sample_gradients(layers, signal, range(len(signal))[part])
            for layer, gradient in zip(layers, gradients, strict=True):
                if gradient is not None:
                    a = gradient.flatten(1)[:, :, None, None]
                    yield layer, part, DenseFactors(a, torch.ones_like(a))

    def _parts(self, cost: int) -> Iterator[slice]:
        """Cut the batch so that ``cost`` numbers per sample stay below the memory limit."""
        size = max(1, self._memory.elements // max(cost, 1))
        return (slice(start, start + size) for start in range(0, len(self.targets), size))

    def sample_gradients(self, layers: Sequence[Layer], signal: Tensor, samples: range) -> list[Tensor | None]:
        """Gradients by a backward pass for each sample, (samples, *shape) for each parameter of the layers.

        None for a parameter that the signal does not reach.
        """
        parameters = [p for layer in layers for p in layer.parameters]
        columns: list[list[Tensor]] = [[] for _ in parameters]
        for sample in samples:
            alone = torch.zeros_like(signal, dtype=self.logits.dtype)
            alone[sample] = self._scale * signal[sample]
            found = torch.autograd.grad(self.logits, parameters, alone, retain_graph=True, allow_unused=True)
            for column, g in zip(columns, found, strict=True):
                if g is not None:  # all samples share one graph, so None for one means None for all
                    column.append(self._unscaled(g))
        return [torch.stack(column) if column else None for column in columns]


def method_of(uses: Iterable[tuple[Use, Tensor]]) -> str:
    """What a layer does in its uses, in words for the user."""
    return "+".join(sorted({use.operation.kind for use, _ in uses}))


def _arranged(x: Tensor, leading: int, batch: int, layout: Layout) -> Tensor:
    """Reshape the leading dimensions of a tensor to (B, n), with n items per sample."""
    if layout == "sample first":
        return x.reshape(batch, -1, *x.shape[leading:])
    return x.reshape(-1, batch, *x.shape[leading:]).transpose(0, 1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x
