"""The operations in which parameters act on data, such as a matrix product or a convolution.

Each operation turns its input x and the gradient g of its output into the factors of per-sample gradients. Both arrive
as (B, n, …). The samples come first, then n items per sample (tokens, say, or 1). The last dimensions belong to the
operation itself, such as the channels and pixels of a convolution.
"""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pareto.influence.embedding import EmbeddingFactors
from lightning_pareto.influence.factors import DenseFactors, Factors
from lightning_pareto.influence.memory import Scratch


@dataclass(frozen=True)
class Terms:
    """Which parameters of a layer one operation uses.

    A layer's gradient is one matrix with a column for each input of the weight and a last column for the bias. An
    operation that leaves one of them out has zeros there.

    Attributes:
        weight: whether the operation uses the layer's weight; None if the layer has none.
        bias: whether the operation uses the layer's bias; None if the layer has none.
    """

    weight: bool | None
    bias: bool | None

    def inputs(self, a: Tensor) -> Tensor:
        """Turn the inputs of the weight, (…, I), into those of the layer: the bias adds a last column of ones."""
        columns = []
        if self.weight is not None:
            columns.append(a if self.weight else torch.zeros_like(a))
        if self.bias is not None:
            columns.append(a.new_full((*a.shape[:-1], 1), float(self.bias)))
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)


class Operation(ABC):
    """What a layer's parameters do in one function call of the forward pass."""

    kind: str
    """Name for the user, in the metadata of the result."""

    item: int
    """How many trailing dimensions of the input belong to the operation."""

    @abstractmethod
    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """Factors of the per-sample gradients from the inputs and the gradients of the outputs, (B, n, …) each.

        The next call with the same scratch overwrites them.
        """

    def cost(self, x: Tensor, g: Tensor) -> int:
        """How many numbers the factors of one sample take, and its gradient unless it is an outer product."""
        return 2 * g[0].numel()


@dataclass(frozen=True)
class MatrixProduct(Operation):
    """``y = W x + b`` over the last dimension.

    Attributes:
        rows: if only some rows of W are used, the first of them and the number of rows of W; None for all.
    """

    terms: Terms
    rows: tuple[int, int] | None = None
    kind = "linear"
    item = 1

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`."""
        if self.rows is not None:
            start, total = self.rows
            g = F.pad(g, (start, total - start - g.shape[-1]))
        return DenseFactors(self.terms.inputs(x)[:, None], g[:, None], scratch)

    def cost(self, x: Tensor, g: Tensor) -> int:
        """See :class:`Operation`."""
        outputs = g.shape[-1] if self.rows is None else self.rows[1]
        return x[0].numel() + x.shape[1] * outputs + (x.shape[1] > 1) * x.shape[-1] * outputs


@dataclass(frozen=True)
class TransposedProduct(Operation):
    """``y = x W``, as in Hugging Face's ``Conv1D``, for a layer without a bias. Inputs and outputs change places."""

    kind = "linear"
    item = 1

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`."""
        return DenseFactors(g[:, None], x[:, None], scratch)

    def cost(self, x: Tensor, g: Tensor) -> int:
        """See :class:`Operation`."""
        return x[0].numel() + g[0].numel() + x.shape[-1] * g.shape[-1]


@dataclass(frozen=True)
class Convolution(Operation):
    """A convolution over one, two or three dimensions; each group is a block."""

    terms: Terms
    item: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    kind = "convolution"

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
        """Patches as columns, (B, R, I, T), with the bias as the last row; several times as fast as ``F.unfold``."""
        x = F.pad(x, [side for pair in reversed(self.padding) for side in pair]).unflatten(1, (self.groups, -1))
        space = [
            (size - (kernel - 1) * dilation - 1) // stride + 1
            for size, kernel, dilation, stride in zip(x.shape[3:], self.kernel, self.dilation, self.stride, strict=True)
        ]
        offsets = list(itertools.product(*map(range, self.kernel)))
        rows = 0 if self.terms.weight is None else x.shape[2] * len(offsets)
        patches = scratch.buffer("patches", (*x.shape[:2], rows + (self.terms.bias is not None), *space), x)
        if self.terms.bias is not None:
            patches[:, :, rows:] = float(self.terms.bias)
        if self.terms.weight is False:
            patches[:, :, :rows] = 0
        elif self.terms.weight:
            windows = patches[:, :, :rows].unflatten(2, (x.shape[2], -1))
            for number, offset in enumerate(offsets):
                steps = zip(offset, space, self.dilation, self.stride, strict=True)
                window = x
                for axis, (at, size, dilation, stride) in enumerate(steps, 3):
                    window = window[(slice(None),) * axis + (slice(at * dilation, None, stride),)].narrow(axis, 0, size)
                windows[:, :, :, number] = window
        return patches.flatten(3)


@dataclass(frozen=True)
class TransposedConvolution(Operation):
    """The weight of a transposed convolution, in terms of the convolution that leads from its outputs to its inputs."""

    convolution: Convolution
    kind = "transposed convolution"

    @property
    def item(self) -> int:  # type: ignore[override]
        """See :class:`Operation`."""
        return self.convolution.item

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`."""
        return self.convolution.factors(g, x, scratch)

    def cost(self, x: Tensor, g: Tensor) -> int:
        """See :class:`Operation`."""
        return self.convolution.cost(g, x)


@dataclass(frozen=True)
class Scaling(Operation):
    """``y = γ x̂ + β`` for each feature, the last step of a normalisation. Each feature is a 1 × 2 block.

    Attributes:
        item: number of trailing dimensions of one sample's x̂.
        features: how many of those, from the first on, index γ; the others are positions.
    """

    terms: Terms
    item: int
    features: int
    kind = "normalisation"

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`; sums over the positions right away."""
        x, g = (z[..., None].flatten(2 + self.features).flatten(2, 1 + self.features) for z in (x, g))  # (B, n, C, T)
        product = torch.mul(x, g, out=scratch.buffer("product", x.shape, x))
        columns = [(self.terms.weight, product), (self.terms.bias, g)]
        sums = [value.sum(dim=(1, 3)) * float(used) for used, value in columns if used is not None]
        a = torch.stack(sums, dim=-1)[:, :, None]  # (B, C, 1, I)
        return DenseFactors(a, torch.ones_like(a[..., :1]), scratch)


@dataclass(frozen=True)
class Lookup(Operation):
    """Rows of an embedding table. The row of the padding, if there is one, gets no gradient."""

    rows: int
    padding: int | None
    kind = "embedding"
    item = 0

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`."""
        if self.padding is not None:
            g = g.masked_fill((x == self.padding)[..., None], 0)
        return EmbeddingFactors(x, g, self.rows)


@dataclass(frozen=True)
class Broadcast(Operation):
    """A parameter that is broadcast over the samples and added to them, or multiplied with them, elementwise.

    Each of its elements is a block, 1 × 1, or 1 × 2 where a weight and a bias form one layer.

    Attributes:
        terms: which of these it is.
        shape: shape of the parameter. Items of a sample that are apart in it come first.
        item: number of dimensions of an item of a sample.
    """

    terms: Terms
    shape: tuple[int, ...]
    item: int
    kind = "broadcast"

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`; ``x`` is what the parameter is multiplied with, or ones for a sum."""
        a = g * x
        shape = (1,) * (a.ndim - 1 - len(self.shape)) + self.shape
        axes = [axis for axis, size in enumerate(shape, 1) if size == 1]  # over which the parameter was repeated
        a = a.sum(dim=axes, keepdim=True) if axes else a
        a = a.reshape(len(a), -1, 1, 1)
        columns = [a * float(used) for used in (self.terms.weight, self.terms.bias) if used is not None]
        return DenseFactors(torch.cat(columns, dim=-1), torch.ones_like(a), scratch)


@dataclass(frozen=True)
class Derived(Operation):
    """An operation of a tensor that is computed from a parameter alone, such as a normalised weight.

    The per-sample gradients of the tensor are pulled back through that computation. Each element of the parameter is a
    block.

    Attributes:
        operation: what the tensor does, as a weight or as a bias.
        value: the tensor.
        parameter: what it is computed from.
    """

    operation: Operation
    value: Tensor
    parameter: nn.Parameter

    @property
    def kind(self) -> str:  # type: ignore[override]
        """See :class:`Operation`."""
        return f"derived {self.operation.kind}"

    @property
    def item(self) -> int:  # type: ignore[override]
        """See :class:`Operation`."""
        return self.operation.item

    def factors(self, x: Tensor, g: Tensor, scratch: Scratch) -> Factors:
        """See :class:`Operation`."""
        gradients = self.operation.factors(x, g, scratch).gradients()
        if self.value is not self.parameter:
            pulled = gradients.reshape(-1, *self.value.shape).to(self.value.dtype)
            (found,) = torch.autograd.grad(self.value, self.parameter, pulled, retain_graph=True, is_grads_batched=True)
            gradients = found.to(gradients.dtype)
        a = gradients.reshape(len(x), -1, 1, 1)
        return DenseFactors(a, torch.ones_like(a))

    def cost(self, x: Tensor, g: Tensor) -> int:
        """See :class:`Operation`."""
        return self.operation.cost(x, g) + self.value.numel() + 2 * self.parameter.numel()


def concatenate(uses: list[Factors]) -> Factors:
    """Join the factors of several uses of one layer along the positions.

    Raises a TypeError if one parameter is used both as an embedding and otherwise, or in different shapes.
    """
    first = uses[0]
    if len(uses) == 1:
        return first
    dense = [use for use in uses if isinstance(use, DenseFactors)]
    if len(dense) == len(uses) and len({use.zeros(0).shape for use in dense}) == 1:
        return DenseFactors(torch.cat([use.a for use in dense], dim=2), torch.cat([use.g for use in dense], dim=2))
    embedded = [use for use in uses if isinstance(use, EmbeddingFactors)]
    if len(embedded) < len(uses):
        raise TypeError("one parameter is used in ways that do not add up, as an embedding and as a matrix")
    tokens, a = torch.cat([use.tokens for use in embedded], dim=1), torch.cat([use.a for use in embedded], dim=1)
    return EmbeddingFactors(tokens, a, embedded[0].rows)
