"""Records where a forward pass uses the parameters of interest, and on which inputs."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lightning_pareto.influence.functions import RECORDED, REPEATS
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.operations import Derived, MatrixProduct, Operation, Terms

Expansion = Literal["all", "no vectors", "nothing"]
"""Which tensors shared by the batch are expanded to one copy per sample. "no vectors" leaves out tables looked up by a
vector: it may hold one index per position, or one per sample, as for a column of a data table."""


@dataclass(frozen=True)
class Use:
    """One use of a layer: what its parameters do with the input x.

    The edge is the place in the autograd graph at which to ask for the output's gradient. Later in-place changes of the
    output do not affect it.
    """

    layer: Layer
    operation: Operation
    x: Tensor
    edge: GradientEdge

    @property
    def leading_shape(self) -> torch.Size:
        """The leading dimensions of the input and the output, which hold the samples and their positions."""
        return self.x.shape[: self.x.ndim - self.operation.item]


class Recorder(TorchFunctionMode):
    """Records every use of the given layers while active, as a context manager.

    A per-sample gradient is a sum of products of a use's input and its output gradient. So the recorder keeps, for each
    use, the input and the place in the autograd graph where the output gradient will arrive.

    It intercepts the functions that modules call, not the modules. That covers subclasses, weights that are shared or
    used outside of their module, and the inside of ``nn.MultiheadAttention``. Other uses of a parameter are missed; the
    verification then finds that the layer's gradients are wrong.

    Some tensors are shared by the whole batch, so their gradient is already summed over the samples. A parameter that
    is added, multiplied or expanded is recorded at the output instead, where the samples are apart. A table that is
    looked up once for all samples, as for positions, is looked up once per sample instead, unless the indices come from
    the data. That changes shapes inside the model, so compare the logits with those of a pass with
    ``expansion="nothing"``.

    Models also compute tensors from parameters before the data meet them: normalised weights, ``1 + w``, tables of
    relative positions. The uses of such *derived* tensors are recorded for the layers in ``derived``. Each of those has
    one parameter. What depends on a tensor of the batch is not derived.
    """

    def __init__(
        self,
        batch: Any,
        samples: int,
        layers: Sequence[Layer],
        derived: Sequence[Layer] = (),
        expansion: Expansion = "nothing",
    ) -> None:
        super().__init__()
        self.samples = samples
        self._expands, self._expands_vectors = expansion != "nothing", expansion == "all"
        self.uses: list[Use] = []
        self._owner = {parameter: layer for layer in layers for parameter in layer.parameters}
        self._views: dict[Tensor, nn.Parameter] = {}
        self._derived: dict[Tensor, Collection[Layer]] = {p: [layer] for layer in derived for p in layer.parameters}
        self._data: set[Tensor] = set()  # those that need no gradient
        if derived or self._expands:
            apply_to_collection(batch, Tensor, self._data.add)

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and record it if it uses one of the layers."""
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        wrapper = RECORDED.get(func)
        if wrapper is not None and not any(map(self.is_watched, tensors)):
            wrapper = None
        if self._derived and any(map(self._comes_from_parameters, tensors)) and not any(map(self._is_data, tensors)):
            return self._derive(func, wrapper, args, kwargs, tensors)
        if wrapper is not None:
            return wrapper(self, *args, **kwargs)
        output = func(*args, **kwargs)
        if any(value in self._data for value in tensors):
            changed = tensors[:1] if func is torch.Tensor.__setitem__ else _tensors((output,))
            self._data.update(value for value in changed if not value.requires_grad)
        return output

    def _comes_from_parameters(self, value: Tensor) -> bool:
        return isinstance(value, nn.Parameter) or value in self._derived

    def _is_data(self, value: Tensor) -> bool:
        return value in self._data or (value.requires_grad and not self._comes_from_parameters(value))

    def _derive(
        self,
        func: Callable[..., Any],
        wrapper: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: Sequence[Tensor],
    ) -> Any:
        """Call a function of parameters alone. Its outputs are derived unless it uses another layer or repeats them."""
        known = len(self.uses)
        sources = dict.fromkeys(layer for value in tensors for layer in self._derived.get(value, ()))
        call = partial(wrapper, self) if wrapper is not None and (func in REPEATS or not sources) else func
        output = call(*args, **kwargs)
        if len(self.uses) == known:
            self._derived |= dict.fromkeys(_tensors((output,)), sources)
        return output

    def expands_lookup(self, indices: Tensor) -> bool:
        """Whether a lookup of these indices is taken to be shared by the batch, and is expanded per sample."""
        shared = self._expands_vectors if indices.ndim == 1 else len(indices) == 1
        return self._expands and shared and indices not in self._data

    def is_watched(self, value: Any) -> bool:
        """Whether a value is a parameter of a layer, a view of one, or derived from one."""
        return isinstance(value, Tensor) and (self.parameter(value) is not None or bool(self._derived.get(value)))

    def parameter(self, value: Any) -> nn.Parameter | None:
        """The parameter of a layer that a value is, or has the elements of in the same order; None if there is none."""
        if isinstance(value, nn.Parameter):
            return value if value in self._owner else None
        return self._views.get(value) if isinstance(value, Tensor) else None

    def remember_view(self, view: Tensor, value: Tensor) -> None:
        """Remember that ``view`` has the elements of ``value``, a parameter or a view of one, in the same order."""
        parameter = self.parameter(value)
        if parameter is not None:
            self._views[view] = parameter

    def record(
        self,
        x: Tensor,
        output: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        operation: Callable[[Terms], Operation],
    ) -> Tensor:
        """Record that these parameters turned ``x`` into ``output``, and return the output.

        ``x`` is what the weight is multiplied with. ``operation`` is called once for each layer that takes part.
        """
        if output.requires_grad:
            owners = [self._owner[p] for p in (weight, bias) if isinstance(p, nn.Parameter) and p in self._owner]
            for layer in dict.fromkeys(owners):
                terms = _terms(layer, weight, bias)
                self.uses.append(Use(layer, operation(terms), x.detach(), get_gradient_edge(output)))
            for value, terms in ((weight, Terms(True, None)), (bias, Terms(None, True))):
                if value is not None:
                    for layer in self._derived.get(value, ()):
                        use = Derived(operation(terms), value, layer.parameters[0])
                        self.uses.append(Use(layer, use, x.detach(), get_gradient_edge(output)))
        return output

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """Compute and record a matrix product with the weight, or with some of its rows."""
        if rows is None:
            return self.record(x, F.linear(x, weight, bias), weight, bias, MatrixProduct)
        output = F.linear(x, weight[rows], None if bias is None else bias[rows])
        return self.record(x, output, weight, bias, lambda terms: MatrixProduct(terms, (rows.start, len(weight))))


def _terms(layer: Layer, weight: Tensor | None, bias: Tensor | None) -> Terms:
    """Which parameters of a layer an operation uses. A lone parameter may serve as either."""
    if len(layer.parameters) == 1:
        return Terms(True, None) if weight is layer.parameters[0] else Terms(None, True)
    return Terms(weight is layer.parameters[0], bias is layer.parameters[1])


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among some values, and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
