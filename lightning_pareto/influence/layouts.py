"""Where the samples are in a layer's input and output."""

from typing import Literal

from torch import Tensor

from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.recorder import Use
from lightning_pareto.influence.task import BatchError

Layout = Literal["sample first", "position first"]
"""The order of the leading dimensions: (B, positions, …), or (positions, B, …) as in sequence-first transformers."""


class MixedSamplesError(BatchError):
    """A layer's input does not keep the samples apart.

    Attributes:
        layer: the layer's name.
    """

    def __init__(self, layer: Layer, x: Tensor, batch: int) -> None:
        super().__init__(
            f"layer {layer.name!r} was called on a tensor of shape {tuple(x.shape)} for {batch} samples, and it is "
            "unclear which part belongs to which sample. Leave the layer out: layers=[…] names those to keep"
        )
        self.layer = layer.name


def arrange(x: Tensor, item: int, batch: int, layout: Layout, layer: Layer) -> Tensor:
    """Reshape a tensor to (B, n, …), with n items per sample and the last ``item`` dimensions unchanged."""
    lead, rest = x.shape[: x.ndim - item], x.shape[x.ndim - item :]
    if lead.numel() % batch:
        raise MixedSamplesError(layer, x, batch)
    if layout == "sample first":
        return x.reshape(batch, -1, *rest)
    return x.reshape(-1, batch, *rest).transpose(0, 1)


def items_per_sample(use: Use, batch: int, layout: Layout) -> int:
    """How many items of each sample are in the batch dimension of a use's input.

    This is 1 in an ordinary layer. It is larger where a model folds something into the batch dimension, such as the
    frames of videos, (B·frames, …). It is 0 if the samples do not have equally many.
    """
    lead = use.x.shape[: use.x.ndim - use.operation.item]
    sizes = lead if layout == "sample first" else lead[1:]
    return sizes[0] // batch if sizes and sizes[0] % batch == 0 else 0


def keeps_samples_apart(use: Use, batch: int, layout: Layout, verified: frozenset[int]) -> bool:
    """Whether a use has one item per sample, or a number of items that was verified against autograd."""
    found = items_per_sample(use, batch, layout)
    return found == 1 or (found > 0 and found in verified)
