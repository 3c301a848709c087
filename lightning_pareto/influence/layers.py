"""Groups a module's parameters into layers, the units of curvature and influence."""

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Layer:
    """Trainable parameters whose gradient is treated as one matrix, or as R independent ones.

    Attributes:
        name: qualified name of the module, or of a parameter on its own.
        parameters: one parameter, or a weight and its bias.
        names: their qualified names.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        """Total number of elements."""
        return sum(p.numel() for p in self.parameters)

    def split(self) -> "list[Layer]":
        """Each parameter as a layer of its own."""
        return [Layer(name, (p,), (name,)) for name, p in zip(self.names, self.parameters, strict=True)]

    def unpack(self, gradients: Tensor) -> list[Tensor]:
        """Split gradients, (B, R, O, I) with a bias in the last column, into (B, *shape) for each parameter."""
        parts = [gradients] if len(self.parameters) == 1 else [gradients[..., :-1], gradients[..., -1]]
        return [part.reshape(len(part), *p.shape) for part, p in zip(parts, self.parameters, strict=True)]


def select_layers(module: nn.Module, patterns: Sequence[str] | None = None) -> list[Layer]:
    """Group the trainable parameters of a module into layers.

    A weight and the bias of the same module form one layer. A parameter that several modules share is a layer of its
    own, which collects the gradients of all its uses.

    With ``patterns``, cover only parameters whose qualified names match one of these shell patterns, for instance
    ``["head.*"]``.

    Raises:
        TypeError: if it is not a module.
        ValueError: if there is nothing to cover, a pattern matches nothing, or a parameter is complex, has no values,
            or cannot be differentiated.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, found {type(module).__name__}: estimate_influence(module, …)")
    _check_values(module)
    trainable = {name: p for _, pair in _pairs(module) for name, p in pair.items() if p.requires_grad}
    complex_names = [name for name, p in trainable.items() if p.is_complex()]
    if complex_names:
        raise ValueError(
            f"influence is not defined for complex parameters ({', '.join(complex_names[:4])}). Freeze them, or store "
            "their real and imaginary parts as two parameters"
        )
    matches = {p: [name for name in trainable if fnmatch.fnmatchcase(name, p)] for p in patterns or ()}
    unmatched = [pattern for pattern, names in matches.items() if not names]
    if unmatched:
        raise ValueError(
            f"layers={list(matches)}: no trainable parameter matches {unmatched}; their names are "
            f"{list(trainable)[:8]}{' …' if len(trainable) > 8 else ''}"
        )
    wanted = set(trainable) if patterns is None else {name for names in matches.values() for name in names}
    owners = Counter(map(id, trainable.values()))
    layers: list[Layer] = []
    taken: set[int] = set()
    for layer_name, pair in _pairs(module):
        chosen = {name: p for name, p in pair.items() if name in wanted and id(p) not in taken}
        taken.update(map(id, chosen.values()))
        if chosen:
            layer = Layer(layer_name, tuple(chosen.values()), tuple(chosen))
            layers += layer.split() if any(owners[id(p)] > 1 for p in layer.parameters) else [layer]
    if not layers:
        found = "every parameter is frozen" if not trainable else f"its parameters are {list(trainable)[:5]}"
        raise ValueError(
            f"the module has no trainable parameter to cover: {found}. Unfreeze the layers whose influence you want, "
            "at least the classifier's head"
        )
    return layers


def _check_values(module: nn.Module) -> None:
    """Refuse parameters without values, and parameters that autograd cannot differentiate."""
    for name, parameter in module.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"parameter {name!r} has no shape yet. Run one batch through the module first")
        if parameter.is_meta:
            raise ValueError(f"parameter {name!r} is on the meta device and has no values. Load the weights first")
        if parameter.is_inference():
            raise ValueError(
                f"parameter {name!r} was created under torch.inference_mode(), which autograd cannot differentiate. "
                "Create the module outside of it, or load its state_dict() into a new module"
            )


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BIAS_OF = {"weight": "bias", "in_proj_weight": "in_proj_bias"}


def _pairs(module: nn.Module) -> Iterator[tuple[str, dict[str, nn.Parameter]]]:
    """Yield a layer's name and its parameters by name: a weight with the bias of its module, or another parameter."""
    for prefix, submodule in module.named_modules():
        own = dict(submodule.named_parameters(recurse=False))
        dot = f"{prefix}." if prefix else ""
        # their bias belongs to the columns of the weight; Conv1D is Hugging Face's
        transposed = isinstance(submodule, _TRANSPOSED) or type(submodule).__name__ == "Conv1D"
        for weight, bias in ({} if transposed else _BIAS_OF).items():
            if weight in own and bias in own and own[bias].shape in (own[weight].shape[:1], own[weight].shape):
                yield prefix, {dot + weight: own.pop(weight), dot + bias: own.pop(bias)}
        yield from ((dot + name, {dot + name: p}) for name, p in own.items())
