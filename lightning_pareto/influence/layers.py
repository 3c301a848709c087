"""How the weights of a layer meet its inputs: every supported layer as a batch of small matrix products.

For each sample, the weight gradient of a layer is a sum of outer products. Everything downstream relies on one shape
convention for the two factors, with B samples, R independent blocks (the groups of a convolution, else 1) and T
positions (pixels, tokens, repeated calls):

    inputs            a  (B, R, T, I)
    output gradients  g  (B, R, T, O)
    sample gradient   G = gᵀ a  (B, R, O, I)

The bias is one more input that is always one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Layer(ABC):
    """A module whose trainable weight and bias are covered, in the shape convention of this file.

    Args:
        name: the module's qualified name.
        weight: whether the weight is trainable.
        bias: whether there is a trainable bias.
    """

    def __init__(self, name: str, weight: bool, bias: bool) -> None:
        self.name = name
        self.weight = weight
        self.bias = bias

    def inputs(self, x: Tensor) -> Tensor:
        """Bring a module's input to ``a``, (B, R, T, I), a bias column last."""
        a = self._weight_inputs(x)
        ones = a.new_ones(*a.shape[:-1], 1)
        if not self.weight:
            return ones
        return torch.cat([a, ones], dim=-1) if self.bias else a

    @abstractmethod
    def _weight_inputs(self, x: Tensor) -> Tensor:
        """Bring a module's input to the weight's part of ``a``."""

    @abstractmethod
    def output_gradients(self, g: Tensor) -> Tensor:
        """Bring the gradient of a module's output to ``g``, (B, R, T, O)."""


class LinearLayer(Layer):
    """``nn.Linear`` on inputs with any number of dimensions between the batch and the features."""

    def _weight_inputs(self, x: Tensor) -> Tensor:
        return _batch_first(x)

    def output_gradients(self, g: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return _batch_first(g)


class Conv2dLayer(Layer):
    """``nn.Conv2d`` with any groups, stride, dilation and padding mode; each group is a block of its own."""

    def __init__(self, name: str, weight: bool, bias: bool, module: nn.Conv2d) -> None:
        super().__init__(name, weight, bias)
        self._module = module

    def _weight_inputs(self, x: Tensor) -> Tensor:
        conv = self._module
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = F.pad(x, _padding(conv), mode=mode)
        patches = F.unfold(x, conv.kernel_size, dilation=conv.dilation, stride=conv.stride)  # (B, C·kh·kw, T)
        return _by_group(patches, conv.groups)

    def output_gradients(self, g: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return _by_group(g.flatten(2), self._module.groups)


@dataclass(frozen=True)
class Coverage:
    """Which trainable parameters can be covered.

    Attributes:
        layers: the covered modules and how each is read.
        parameters: every trainable parameter's size by name, and the layer that covers it, if any.
    """

    layers: dict[nn.Module, Layer] = field(repr=False)
    parameters: dict[str, tuple[int, Layer | None]]

    def uncovered(self, reached: Collection[Layer]) -> list[str]:
        """Names of the trainable parameters that none of the layers reached by a backward pass covers."""
        return [name for name, (_, layer) in self.parameters.items() if layer not in reached]

    def covered_share(self, reached: Collection[Layer]) -> float:
        """Covered trainable numbers over all trainable numbers."""
        covered = sum(size for size, layer in self.parameters.values() if layer in reached)
        return covered / sum(size for size, _ in self.parameters.values())


def cover(module: nn.Module) -> Coverage:
    """Find the layers of ``module`` with trainable parameters that can be covered.

    Args:
        module: any module; ``nn.Linear`` and ``nn.Conv2d`` are covered at any depth, but not their subclasses, whose
            forward may differ. A weight that two modules share is left uncovered, because neither alone has its whole
            gradient.

    Returns:
        The covered layers, and every trainable parameter with its layer.

    Raises:
        ValueError: if nothing can be covered.
    """
    owners: dict[nn.Parameter, int] = {}
    for submodule in module.modules():
        for parameter in submodule.parameters(recurse=False):
            owners[parameter] = owners.get(parameter, 0) + 1
    layers: dict[nn.Module, Layer] = {}
    covered: dict[nn.Parameter, Layer] = {}
    for name, submodule in module.named_modules():
        trainable = [p for p in submodule.parameters(recurse=False) if p.requires_grad]
        if trainable and all(owners[p] == 1 for p in trainable):
            layer = _read(name, submodule)
            if layer is not None:
                layers[submodule] = layer
                covered.update(dict.fromkeys(trainable, layer))
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not layers:
        raise ValueError(
            "no trainable nn.Linear or nn.Conv2d found in the module: "
            + ("every parameter is frozen" if not named else f"its parameters are {list(named)[:5]}")
            + ". Unfreeze the layers whose influence you want, at least the classifier's head"
        )
    return Coverage(layers, {name: (p.numel(), covered.get(p)) for name, p in named.items()})


def _read(name: str, module: nn.Module) -> Layer | None:
    if type(module) not in (nn.Linear, nn.Conv2d):
        return None
    assert isinstance(module, (nn.Linear, nn.Conv2d))
    weight = module.weight.requires_grad
    bias = module.bias is not None and module.bias.requires_grad
    if isinstance(module, nn.Conv2d):
        return Conv2dLayer(name, weight, bias, module)
    return LinearLayer(name, weight, bias)


def _batch_first(x: Tensor) -> Tensor:
    return x.reshape(len(x), 1, math.prod(x.shape[1:-1]), x.shape[-1])


def _by_group(x: Tensor, groups: int) -> Tensor:
    """Bring (B, R·C, T) to (B, R, T, C)."""
    return x.reshape(len(x), groups, -1, x.shape[2]).transpose(2, 3)


def _padding(conv: nn.Conv2d) -> list[int]:
    """Padding in the order of ``F.pad``: last dimension first, left before right."""
    if isinstance(conv.padding, str):
        if conv.padding == "valid":
            return [0, 0, 0, 0]
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return [side for pad in reversed(conv.padding) for side in (pad, pad)]
