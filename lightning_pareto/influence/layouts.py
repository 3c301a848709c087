"""Where the samples are in a layer's input and output."""

from typing import Literal

from torch import Tensor

from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.recorder import Use
from lightning_pareto.influence.task import BatchError

Layout = Literal["sample first", "position first"]


class MixedSamplesError(BatchError):
    """A layer's input cannot be told apart by sample.

    Args:
        message: what was found.
        layer: the layer's name.
    """

    def __init__(self, message: str, layer: str) -> None:
        super().__init__(message)
        self.layer = layer


def arrange(x: Tensor, item: int, batch: int, layout: Layout, layer: Layer) -> Tensor:
    """Bring a tensor to (B, n, …), the last ``item`` dimensions kept."""
    lead, rest = x.shape[: x.ndim - item], x.shape[x.ndim - item :]
    if lead.numel() % batch:
        raise mixed(layer, x, batch)
    if layout == "sample first":
        return x.reshape(batch, -1, *rest)
    return x.reshape(-1, batch, *rest).transpose(0, 1)


def fold(use: Use, batch: int, layout: Layout) -> int:
    """How many items of each sample stand in the batch dimension of a use's input; 1 in an ordinary one."""
    lead = use.x.shape[: use.x.ndim - use.operation.item]
    sizes = lead if layout == "sample first" else lead[1:]
    return sizes[0] // batch if sizes and sizes[0] % batch == 0 else 0


def trusted(use: Use, batch: int, layout: Layout, known: frozenset[int]) -> bool:
    """Whether a use keeps its samples apart as those did that were compared with autograd."""
    found = fold(use, batch, layout)
    return found == 1 or (found > 0 and found in known)


def mixed(layer: Layer, x: Tensor, batch: int) -> MixedSamplesError:
    """The error for a layer's input."""
    return MixedSamplesError(
        f"layer {layer.name!r} was called on a tensor of shape {tuple(x.shape)} for {batch} samples, whose parts "
        "cannot be told apart by sample. Leave it out: layers=[…] takes the names of those to keep",
        layer.name,
    )
