"""How parameters meet data: each operation turns an input and an output gradient into factors.

Inputs and gradients come with the samples first and whatever else stands between them and the operation's own
dimensions after it: x (B, n, …), g (B, n, …).
"""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_pareto.influence.embedding import EmbeddingFactors
from lightning_pareto.influence.factors import DenseFactors, Factors
from lightning_pareto.influence.scratch import Scratch


@dataclass(frozen=True)
class Parts:
    """Which parts a layer has and which of them take part in one operation.

    Attributes:
        weight: whether the operation uses the layer's weight; None if the layer has none.
        bias: whether the operation uses the layer's bias; None if the layer has none.
    """

    weight: bool | None
    bias: bool | None

    def inputs(self, a: Tensor) -> Tensor:
        """Bring the inputs of the weight, (…, I), to those of the layer: the bias as a last column of ones."""
        columns = []
        if self.weight is not None:
            columns.append(a if self.weight else torch.zeros_like(a))
        if self.bias is not None:
            columns.append(a.new_full((*a.shape[:-1], 1), float(self.bias)))
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)


class Operation(ABC):
    """One use of a layer in a forward pass."""

    kind: str
    """What to call it."""

    item: int
    """How many trailing dimensions of the input are the operation's own."""

    output_item: int
    """The same for the output."""

    @abstractmethod
    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """Factors of the samples' gradients.

        Args:
            x: inputs, (B, n, …).
            g: gradients of the outputs, (B, n, …).
            scratch: where they may keep what they hold, so that these factors are done with before the next.
        """

    @abstractmethod
    def cost(self, x: Tensor, g: Tensor) -> int:
        """How many numbers the factors and the gradient of one sample take."""


@dataclass(frozen=True)
class MatrixProduct(Operation):
    """``y = W x + b`` over the last dimension.

    Attributes:
        parts: what of the layer is used.
        rows: first of the weight's rows that are used, and how many there are; all by default.
    """

    parts: Parts
    rows: tuple[int, int] | None = None
    kind = "linear"
    item = output_item = 1

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`."""
        if self.rows is not None:
            start, total = self.rows
            g = F.pad(g, (start, total - start - g.shape[-1]))
        return DenseFactors(self.parts.inputs(x)[:, None], g[:, None], scratch)

    def cost(self, x: Tensor, g: Tensor) -> int:
        """See :class:`Operation`."""
        outputs = g.shape[-1] if self.rows is None else self.rows[1]
        return x[0].numel() + x.shape[1] * outputs + x.shape[-1] * outputs


@dataclass(frozen=True)
class Convolution(Operation):
    """A convolution over one, two or three dimensions; each group is a block of its own."""

    parts: Parts
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    kind = "convolution"

    @property
    def item(self) -> int:  # type: ignore[override]
        """Channels and the space."""
        return 1 + len(self.kernel)

    @property
    def output_item(self) -> int:  # type: ignore[override]
        """The same."""
        return self.item

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`."""
        a = self._patches(x.flatten(0, 1), scratch).unflatten(0, x.shape[:2])  # (B, n, R, I, T)
        g = g.flatten(3).unflatten(2, (self.groups, -1))
        a, g = (z.permute(0, 2, 1, 4, 3) for z in (a, g))  # (B, R, n, T, ·)
        if x.shape[1] == 1:  # no copy: the positions stay last in memory
            return DenseFactors(a.squeeze(2), g.squeeze(2), scratch)
        return DenseFactors(a.flatten(2, 3), g.flatten(2, 3), scratch)

    def cost(self, x: Tensor, g: Tensor) -> int:
        """See :class:`Operation`."""
        positions = x.shape[1] * g[0, 0, 0].numel()
        patch = x.shape[2] * math.prod(self.kernel)
        return positions * (patch + g.shape[2]) + patch * g.shape[2] // self.groups

    def _patches(self, x: Tensor, scratch: Scratch) -> Tensor:
        """Every patch as a column, the bias's row last, (B, R, I, T); several times faster than ``F.unfold``."""
        x = F.pad(x, [side for pair in reversed(self.padding) for side in pair]).unflatten(1, (self.groups, -1))
        space = [
            (size - (kernel - 1) * dilation - 1) // stride + 1
            for size, kernel, dilation, stride in zip(x.shape[3:], self.kernel, self.dilation, self.stride, strict=True)
        ]
        offsets = list(itertools.product(*map(range, self.kernel)))
        rows = 0 if self.parts.weight is None else x.shape[2] * len(offsets)
        patches = scratch.room("patches", (*x.shape[:2], rows + (self.parts.bias is not None), *space), x)
        if self.parts.bias is not None:
            patches[:, :, rows:] = float(self.parts.bias)
        if self.parts.weight is False:
            patches[:, :, :rows] = 0
        elif self.parts.weight:
            windows = patches[:, :, :rows].unflatten(2, (x.shape[2], -1))
            for number, offset in enumerate(offsets):
                steps = zip(offset, space, self.dilation, self.stride, strict=True)
                window = x
                for axis, (at, size, dilation, stride) in enumerate(steps, 3):
                    window = window[(slice(None),) * axis + (slice(at * dilation, None, stride),)].narrow(axis, 0, size)
                windows[:, :, :, number] = window
        return patches.flatten(3)


@dataclass(frozen=True)
class Scaling(Operation):
    """``y = γ x̂ + β`` feature by feature, as normalisations end: a block of 1 × 2 for every feature.

    Attributes:
        parts: what of the layer is used.
        item: number of trailing dimensions of one sample's x̂.
        features: how many of those, from the first on, have a γ of their own; the others are positions.
    """

    parts: Parts
    item: int
    features: int
    kind = "normalisation"

    @property
    def output_item(self) -> int:  # type: ignore[override]
        """The same."""
        return self.item

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`; the positions are summed over at once."""
        x, g = (z[..., None].flatten(2 + self.features).flatten(2, 1 + self.features) for z in (x, g))  # (B, n, C, T)
        product = torch.mul(x, g, out=scratch.room("product", x.shape, x))
        columns = [(self.parts.weight, product), (self.parts.bias, g)]
        sums = [value.sum(dim=(1, 3)) * float(used) for used, value in columns if used is not None]
        a = torch.stack(sums, dim=-1)[:, :, None]  # (B, C, 1, I)
        return DenseFactors(a, torch.ones_like(a[..., :1]), scratch)

    def cost(self, x: Tensor, g: Tensor) -> int:
        """See :class:`Operation`."""
        return 2 * x[0].numel()


@dataclass(frozen=True)
class Lookup(Operation):
    """Rows of an embedding table."""

    rows: int
    padding: int | None
    kind = "embedding"
    item = 0
    output_item = 1

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`; the padding row has no gradient."""
        if self.padding is not None:
            g = g.masked_fill((x == self.padding)[..., None], 0)
        return EmbeddingFactors(x, g, self.rows)

    def cost(self, x: Tensor, g: Tensor) -> int:
        """See :class:`Operation`."""
        return 2 * g[0].numel()


@dataclass(frozen=True)
class Broadcast(Operation):
    """A parameter that is added to every sample, or multiplies it, number by number.

    Attributes:
        shape: of the parameter.
        item: number of dimensions of a sample.
    """

    shape: tuple[int, ...]
    item: int
    kind = "broadcast"

    @property
    def output_item(self) -> int:  # type: ignore[override]
        """The same."""
        return self.item

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`; ``x`` is the other factor, or one."""
        product = (g * x)[:, 0]
        shape = self.shape[-self.item :] if self.item else ()
        axes = [axis for axis in range(1, product.ndim) if (1, *shape)[axis - product.ndim] == 1 or self._beyond(axis)]
        a = product.sum(dim=axes, keepdim=True) if axes else product
        a = a.reshape(len(a), -1)[:, :, None, None]
        return DenseFactors(a, torch.ones_like(a), scratch)

    def _beyond(self, axis: int) -> bool:
        """Whether the parameter does not reach this axis of (B, item)."""
        return self.item + 1 - axis > len(self.shape)

    def cost(self, x: Tensor, g: Tensor) -> int:
        """See :class:`Operation`."""
        return 2 * g[0].numel()


def concatenate(parts: list[Factors]) -> Factors:
    """Several uses of one layer as one, along the positions.

    Raises:
        TypeError: if the uses are of different kinds.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    dense = [part for part in parts if isinstance(part, DenseFactors)]
    if len(dense) == len(parts) and len({p.zeros(0).shape for p in dense}) == 1:
        return DenseFactors(torch.cat([p.a for p in dense], dim=2), torch.cat([p.g for p in dense], dim=2))
    embedded = [part for part in parts if isinstance(part, EmbeddingFactors)]
    if len(embedded) < len(parts):
        raise TypeError("one parameter is used in ways that do not add up, as an embedding and as a matrix")
    tokens, a = torch.cat([p.tokens for p in embedded], dim=1), torch.cat([p.a for p in embedded], dim=1)
    return EmbeddingFactors(tokens, a, embedded[0].rows)
