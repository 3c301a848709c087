"""Groups a module's parameters into layers, the units of curvature and influence."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

NOT = "!"
"""How a pattern begins that leaves parameters out."""


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
    ``["head.*"]``. A pattern that starts with ``!`` leaves out what it matches, wherever it stands in the list:
    ``["head.*", "!head.bias"]``. Such patterns alone leave out and cover the rest: ``["!embedding.weight"]``. A
    parameter that several modules share is left out under any of its names.

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
    wanted = set(trainable) if patterns is None else _chosen(trainable, list(patterns))
    owners = Counter(map(id, trainable.values()))
    layers: list[Layer] = []
    taken: set[int] = set()
    for layer_name, pair in _pairs(module):
        chosen = {name: p for name, p in pair.items() if name in wanted and id(p) not in taken}
        taken.update(map(id, chosen.values()))
        if chosen:
            layer = Layer(layer_name, tuple(chosen.values()), tuple(chosen))
            layers += layer.split() if any(owners[id(p)] > 1 for p in layer.parameters) else [layer]
    if not trainable:
        raise ValueError(
            "the module has no trainable parameter to cover: every parameter is frozen. Unfreeze the layers whose "
            "influence you want, at least the classifier's head"
        )
    if not layers:
        raise ValueError(
            f"layers={list(patterns or ())} covers no trainable parameter of the module; its parameters are "
            f"{list(trainable)[:5]}"
        )
    return layers


def _chosen(trainable: dict[str, nn.Parameter], patterns: Sequence[str]) -> set[str]:
    """Names of the parameters that the patterns cover."""
    matches = {p: [name for name in trainable if fnmatchcase(name, p.removeprefix(NOT))] for p in patterns}
    unmatched = [pattern for pattern, names in matches.items() if not names]
    if unmatched:
        raise ValueError(
            f"layers={patterns}: no trainable parameter matches {unmatched}; their names are "
            f"{list(trainable)[:8]}{' …' if len(trainable) > 8 else ''}"
        )
    left_out = {id(trainable[name]) for p in patterns if p.startswith(NOT) for name in matches[p]}
    asked = [p for p in patterns if not p.startswith(NOT)]
    named = {name for p in asked for name in matches[p]} if asked or not left_out else trainable
    return {name for name in named if id(trainable[name]) not in left_out}


def patterns_without(names: Iterable[str], kept: Collection[str]) -> list[str]:
    """Patterns that leave out the parameters of these names and none of those ``kept``, as few as are found.

    Each name gets the most general pattern of a few: all parameters of a module, with any number in place of its own.
    """
    patterns: list[str] = []
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        parts = name.split(".")
        exact = [".".join([*parts[:depth], "*"]) for depth in range(1, len(parts))] + [name]
        candidates = (each for pattern in exact for each in (re.sub(r"\d+", "*", pattern), pattern))
        patterns.append(next((p for p in candidates if not any(fnmatchcase(k, p) for k in kept)), name))
    return [NOT + pattern for pattern in patterns]


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
