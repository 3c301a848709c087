"""The plan of how to compute each layer's per-sample gradients."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.recorder import Expansion, Use

Layout = Literal["sample first", "position first"]
"""The order of the leading dimensions: (B, positions, …), or (positions, B, …) as in sequence-first transformers."""

LOOPED = "a backward pass per sample"


def items_per_sample(use: Use, batch: int, layout: Layout) -> int:
    """How many items of each sample are in the batch dimension of a use's input.

    This is 1 in an ordinary layer. It is larger where a model folds something into the batch dimension, such as the
    frames of videos, (B·frames, …). It is 0 if the samples do not have equally many.
    """
    sizes = use.leading_shape if layout == "sample first" else use.leading_shape[1:]
    return sizes[0] // batch if sizes and sizes[0] % batch == 0 else 0


class Route(NamedTuple):
    """How to find the samples in the uses of a layer.

    Attributes:
        layout: the order of the leading dimensions.
        method: what the gradients come from, in words for the user, such as ``"linear"``.
        verified: the numbers of :func:`items_per_sample` in the uses that were verified; None before the verification.
        derived: whether to record tensors that are computed from the layer's parameter, rather than the parameter.
    """

    layout: Layout
    method: str = ""
    verified: Sequence[int] | None = None
    derived: bool = False

    def keeps_samples_apart(self, use: Use, batch: int) -> bool:
        """Whether a use has one item per sample, or a number of items that was verified against autograd."""
        if self.verified is None:
            return use.leading_shape.numel() % batch == 0
        found = items_per_sample(use, batch, self.layout)
        return found == 1 or (found > 0 and found in self.verified)


@dataclass
class Plan:
    """How to compute each layer's per-sample gradients.

    Attributes:
        factored: layers whose gradients come from the inputs and output gradients of their uses.
        looped: layers that take a backward pass per sample, and whether each is in use.
        expansion: which tensors shared by the batch are expanded per sample.
    """

    factored: dict[Layer, Route]
    looped: dict[Layer, bool] = field(default_factory=dict)
    expansion: Expansion = "nothing"

    @property
    def methods(self) -> dict[Layer, str]:
        """What the gradients of each layer come from, in the same order on every process."""
        return {layer: route.method for layer, route in self.factored.items()} | dict.fromkeys(self.looped, LOOPED)

    @property
    def direct(self) -> list[Layer]:
        """Factored layers whose parameters themselves are recorded."""
        return [layer for layer, route in self.factored.items() if not route.derived]

    @property
    def derived(self) -> list[Layer]:
        """Factored layers of one parameter from which the recorded tensors are computed."""
        return [layer for layer, route in self.factored.items() if route.derived]

    def loop(self, layer: Layer, in_use: bool = True) -> None:
        """Loop over a layer's parameters, each on its own."""
        self.factored.pop(layer, None)
        self.looped |= dict.fromkeys(layer.split(), in_use)

    def to_json(self) -> str:
        """Write the plan by the names of its parameters, for another process."""
        parts = [[(layer.names, value) for layer, value in part.items()] for part in (self.factored, self.looped)]
        return json.dumps([*parts, self.expansion])

    @classmethod
    def from_json(cls, text: str, layers: Sequence[Layer]) -> "Plan":
        """Read a plan written by :meth:`to_json`, for layers of the same names."""
        known = {part.names: part for layer in layers for part in (layer, *layer.split())}
        factored, looped, expansion = json.loads(text)
        routes = {known[tuple(names)]: Route(*route) for names, route in factored}
        return cls(routes, {known[tuple(names)]: in_use for names, in_use in looped}, expansion)
