"""Per-sample gradients of the covered layers, without touching ``.grad``."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.task import ClassificationTask

Factors = tuple[Tensor, Tensor]  # inputs (B, R, T, I), output gradients (B, R, T, O)


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
    """Runs a module on batches and reads the two factors of every covered layer's per-sample gradients.

    A forward hook keeps each covered layer's input and the edge of the autograd graph that leaves it, so that in-place
    activations afterwards do no harm; the backward pass asks for the gradients at those edges only, which leaves
    ``.grad`` alone and saves the weight gradients of an ordinary backward pass.

    Args:
        module: the model, put into evaluation mode while the probe is open (:meth:`open`).
        layers: the covered layers.
        task: reads batches.
        context: entered around the forward pass, for instance autocast.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: dict[nn.Module, Layer],
        task: ClassificationTask,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.layers = list(layers.values())
        self.task = task
        self._module = module
        self._modules = layers
        self._context = context

    def open(self) -> AbstractContextManager[None]:
        """Put every submodule into evaluation mode, and back into its own mode afterwards."""
        return evaluation_mode(self._module)

    def forward(self, batch: Any) -> "Forward":
        """Run the module on one batch and keep what the per-sample gradients need.

        Raises:
            BatchError: if the batch cannot be read.
        """
        targets = self.task.read_targets(batch)
        calls: list[tuple[Layer, Tensor, GradientEdge]] = []
        handles = [
            submodule.register_forward_hook(_keep(calls, layer), with_kwargs=True)
            for submodule, layer in self._modules.items()
        ]
        try:
            with torch.inference_mode(False), torch.enable_grad(), self._context():
                logits = self.task.read_logits(self._module, batch, targets)
        finally:
            _remove(handles)
        return Forward(logits, targets, calls)


@dataclass(frozen=True)
class Forward:
    """One batch after the forward pass.

    Attributes:
        logits: (B, C).
        targets: (B,).
    """

    logits: Tensor
    targets: Tensor
    _calls: list[tuple[Layer, Tensor, GradientEdge]] = field(repr=False)

    def backward(self, signal: Tensor) -> Iterator[tuple[Layer, Factors]]:
        """Yield every layer with the factors of its per-sample gradients.

        Args:
            signal: gradient of each sample's scalar with respect to its own logits, (B, C).

        Yields:
            A layer and its factors in at least float32; several calls of one module stand one after another in T.
        """
        if not self._calls:
            return
        gradients = torch.autograd.grad(
            self.logits,
            [edge for _, _, edge in self._calls],
            signal.to(self.logits.dtype),
            retain_graph=True,
            allow_unused=True,
        )
        found: dict[Layer, list[tuple[Tensor, Tensor]]] = {}
        for (layer, x, _), gradient in zip(self._calls, gradients, strict=True):
            if gradient is not None:
                found.setdefault(layer, []).append((x, gradient))
        with torch.no_grad():
            for layer, parts in found.items():
                a = [_at_least_float32(layer.inputs(x)) for x, _ in parts]
                g = [_at_least_float32(layer.output_gradients(gradient)) for _, gradient in parts]
                yield layer, (torch.cat(a, dim=2), torch.cat(g, dim=2)) if len(parts) > 1 else (a[0], g[0])


def sample_gradients(factors: Factors) -> Tensor:
    """Return the gradient of every sample, (B, R, O, I)."""
    a, g = factors
    if a.shape[2] == 1:
        return g.transpose(-1, -2) * a
    return g.transpose(-1, -2) @ a


def chunks(factors: Factors, elements: int = 2**25) -> Iterator[tuple[slice, Factors]]:
    """Cut a batch so that its per-sample gradients stay below a number of elements."""
    a, g = factors
    size = max(1, elements // (a.shape[1] * a.shape[3] * g.shape[3]))
    for start in range(0, len(a), size):
        part = slice(start, start + size)
        yield part, (a[part], g[part])


def _keep(calls: list[tuple[Layer, Tensor, GradientEdge]], layer: Layer) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
        if output.requires_grad:
            x = args[0] if args else kwargs["input"]
            calls.append((layer, x.detach(), get_gradient_edge(output)))

    return hook


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
