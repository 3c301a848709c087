"""Watches a forward pass for the operations in which the parameters of interest meet data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lightning_pareto.influence.functions import KNOWN
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.operations import (
    MatrixProduct,
    Operation,
    Parts,
)

Expansion = Literal["all", "no vectors", "nothing"]
"""What a batch shares and is had for every sample: all of it; all but tables looked up by a vector, which may hold one
index for each sample (a column of a data table) as well as for each position; nothing."""


@dataclass(frozen=True)
class Use:
    """One use of a layer.

    Attributes:
        layer: the layer.
        operation: what it was used for.
        x: the input.
        edge: where the output leaves the operation in the autograd graph, so that in-place changes of the output
            afterwards do no harm.
    """

    layer: Layer
    operation: Operation
    x: Tensor
    edge: GradientEdge


class Recorder(TorchFunctionMode):
    """Records every use of the given layers while it is entered.

    It watches the functions that modules end in, not the modules: so it sees subclasses, a weight that is shared or
    used without its module, and the inside of ``nn.MultiheadAttention``. What it misses, or records wrongly because a
    parameter has other uses besides, the verification finds.

    Args:
        layers: the layers to look for.
        samples: of the batch.
        expands: what the whole batch shares and is had for each sample, so that its gradient can be told apart: a table
            looked up without a batch, as for positions, and parameters that are added, multiplied or expanded. That
            changes shapes on the way; compare the logits with those without.
    """

    def __init__(self, layers: Sequence[Layer], samples: int, expands: Expansion = "nothing") -> None:
        super().__init__()
        self.samples = None if expands == "nothing" else samples
        self.expands_vectors = expands == "all"
        self.uses: list[Use] = []
        self._owner = {parameter: layer for layer in layers for parameter in layer.parameters}

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let the function do its work, and note it if it is one of those known."""
        kwargs = kwargs or {}
        known = KNOWN.get(func)
        if known is None or not any(p in self._owner for p in (*args, *kwargs.values()) if isinstance(p, nn.Parameter)):
            return func(*args, **kwargs)
        return known(self, *args, **kwargs)

    def note(
        self,
        x: Tensor,
        output: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        operation: Callable[[Parts], Operation],
    ) -> Tensor:
        """Note that ``output`` came from ``x`` by way of these parameters; returns it."""
        if output.requires_grad:
            owners = [self._owner[p] for p in (weight, bias) if isinstance(p, nn.Parameter) and p in self._owner]
            for layer in dict.fromkeys(owners):
                parts = _parts(layer, weight, bias)
                self.uses.append(Use(layer, operation(parts), x.detach(), get_gradient_edge(output)))
        return output

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, start: int | None = None, rows: int | None = None
    ) -> Tensor:
        """A matrix product with the weight, or with some of its rows."""
        if start is None or rows is None:
            return self.note(x, F.linear(x, weight, bias), weight, bias, MatrixProduct)
        part = slice(start, start + rows)
        output = F.linear(x, weight[part], None if bias is None else bias[part])
        return self.note(x, output, weight, bias, lambda parts: MatrixProduct(parts, (start, len(weight))))


def _parts(layer: Layer, weight: Tensor | None, bias: Tensor | None) -> Parts:
    """A lone parameter is what the operation takes it for; a pair keeps the places of both."""
    if len(layer.parameters) == 1:
        return Parts(True, None) if weight is layer.parameters[0] else Parts(None, True)
    return Parts(weight is layer.parameters[0], bias is layer.parameters[1])
