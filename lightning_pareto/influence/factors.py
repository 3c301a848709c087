"""Per-sample gradients in factored form, and the sums and products that influence needs of them.

Where a layer computes y = W a, the gradient of one sample is the sum over positions of (output gradient) × (input)ᵀ. So
it is enough to keep those two factors. All shapes follow one convention, with B samples, R independent blocks and T
positions. Blocks are the groups of a convolution or the features of a normalisation, and R = 1 otherwise. Positions are
pixels, tokens or repeated calls.

    inputs            a  (B, R, T, I)
    output gradients  g  (B, R, T, O)
    sample gradient   G = gᵀ a  (B, R, O, I)

A bias is one more input, which is always one. An embedding is the case of one-hot outputs.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_pareto.influence.memory import MOST_ELEMENTS, Scratch


@dataclass(frozen=True)
class EigenBasis:
    """The Kronecker eigenbasis of one layer.

    Attributes:
        inputs: eigenvectors of E[a aᵀ], (R, I, I).
        outputs: eigenvectors of E[g gᵀ], (R, O, O), or None for the identity.
    """

    inputs: Tensor
    outputs: Tensor | None

    def rotate(self, matrices: Tensor) -> Tensor:
        """Express (…, R, O, I) in the basis."""
        rotated = matrices @ self.inputs
        return rotated if self.outputs is None else self.outputs.transpose(-1, -2) @ rotated

    def restore(self, matrices: Tensor) -> Tensor:
        """Undo :meth:`rotate`."""
        restored = matrices @ self.inputs.transpose(-1, -2)
        return restored if self.outputs is None else self.outputs @ restored


FEW_SUMS = 2
"""Up to so many weighted sums are computed as one product of inputs and scaled output gradients each."""

_GRAM_BLOCK = 128
"""How many rows of a symmetric matrix to compute at a time."""


@dataclass(eq=False)
class DotProducts:
    """Directions of one layer, (D, R, O, I), laid out for dot products with per-sample gradients.

    The first use of a layout makes it. ``directions`` is a view of it from then on, so that they are kept only once.
    """

    directions: Tensor

    @property
    def numel(self) -> int:
        """How many numbers are stored."""
        return self.directions.numel()

    def dots(self, factors: "Factors") -> Tensor:
        """Dot product of each gradient with each direction, (B, D)."""
        return factors.dots(self)

    def __len__(self) -> int:
        return len(self.directions)

    @functools.cached_property
    def by_gradient(self) -> Tensor:
        """(R·O·I, D)."""
        found = self.directions.flatten(1).T.contiguous()
        self.directions = found.T.unflatten(1, self.directions.shape[1:])
        return found

    @functools.cached_property
    def by_row(self) -> Tensor:
        """(V, I, D), for an embedding."""
        found = self.directions[:, 0].permute(1, 2, 0).contiguous()
        self.directions = found.permute(2, 0, 1)[:, None]
        return found

    @functools.cached_property
    def by_input(self) -> Tensor:
        """(R, I, D·O)."""
        found = self.directions.permute(1, 3, 0, 2).flatten(2)
        self.directions = found.unflatten(2, (len(self), -1)).permute(2, 0, 3, 1)
        return found


class Factors(ABC):
    """Per-sample gradients of one layer for a part of a batch.

    Attributes:
        a: inputs, with the samples first.
    """

    a: Tensor

    @property
    @abstractmethod
    def positions(self) -> int:
        """Samples times positions."""

    @abstractmethod
    def gradients(self) -> Tensor:
        """The gradients themselves, (B, R, O, I)."""

    @abstractmethod
    def zeros(self, count: int) -> Tensor:
        """Zeros in the shape of ``count`` gradients, (count, R, O, I)."""

    @abstractmethod
    def covariances(self) -> tuple[Tensor, Tensor]:
        """Sums over samples and positions of a aᵀ, (R, I, I), and of g gᵀ, (R, O, O), or its diagonal, (R, O)."""

    @abstractmethod
    def squares(self, basis: EigenBasis) -> Tensor:
        """Sum over samples of the squared gradients in a basis, (R, O, I)."""

    def rotates_faster(self, samples: int, count: int) -> bool:
        """Whether rotating so many samples' factors takes fewer operations than rotating ``count`` gradients."""
        outputs, inputs = self.zeros(1).shape[2:]
        positions = self.positions // len(self.a)
        return samples * positions * (outputs**2 + inputs**2) < count * outputs * inputs * (outputs + inputs)

    @abstractmethod
    def rotated(self, basis: EigenBasis) -> "Factors":
        """The factors of the same gradients, expressed in a basis."""

    @abstractmethod
    def add_to(self, sums: Tensor, cell: Tensor) -> None:
        """Add each sample's gradient to its cell, in place: sums (cells, R, O, I), cell (B,)."""

    @abstractmethod
    def add_weighted(self, sums: Tensor, weights: Tensor) -> None:
        """Add D weighted sums of the gradients, in place: sums (D, R, O, I), weights (B, D)."""

    @abstractmethod
    def along(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Products of the factors' projections on n vectors, (O, n) and (I, n), at each position, (B·T, n). R = 1."""

    @abstractmethod
    def dots(self, products: DotProducts) -> Tensor:
        """Dot product of each gradient with each direction, (B, D)."""


@dataclass(frozen=True)
class DenseFactors(Factors):
    """Factors as two dense tensors.

    Attributes:
        a: inputs, (B, R, T, I).
        g: output gradients, (B, R, T, O).
        scratch: buffers for intermediate results.
    """

    a: Tensor
    g: Tensor
    scratch: Scratch = field(default_factory=Scratch, repr=False)

    @property
    def positions(self) -> int:
        """See :class:`Factors`."""
        return self.a.shape[0] * self.a.shape[2]

    def gradients(self, scratch: Scratch | None = None) -> Tensor:
        """See :class:`Factors`; in new memory, unless there is a scratch."""
        batch, blocks, positions, inputs = self.a.shape
        out = (scratch or Scratch()).buffer("gradients", (batch * blocks, self.g.shape[3], inputs), self.a)
        a, g = self.a.flatten(0, 1), self.g.flatten(0, 1).transpose(1, 2)
        torch.mul(g, a, out=out) if positions == 1 else torch.bmm(g, a, out=out)
        return out.view(batch, blocks, *out.shape[1:])

    def zeros(self, count: int) -> Tensor:
        """See :class:`Factors`."""
        return self.a.new_zeros(count, self.a.shape[1], self.g.shape[3], self.a.shape[3])

    def covariances(self) -> tuple[Tensor, Tensor]:
        """See :class:`Factors`."""
        return gram(self._columns(self.a, "a")), gram(self._columns(self.g, "g"))

    def _columns(self, x: Tensor, name: str) -> Tensor:
        """Reshape (B, R, T, n) to (R, n, B·T), keeping the memory order of ``x``."""
        if x.stride(3) != 1:
            columns = self.scratch.buffer(name, [x.shape[axis] for axis in (1, 3, 0, 2)], x)
            return columns.copy_(x.permute(1, 3, 0, 2)).flatten(2)
        rows = x.transpose(0, 1)
        if not rows.is_contiguous():
            rows = self.scratch.buffer(name, rows.shape, x).copy_(rows)
        return rows.flatten(1, 2).transpose(1, 2)

    def squares(self, basis: EigenBasis) -> Tensor:
        """See :class:`Factors`; rotates either the factors or the gradients, whichever is cheaper."""
        batch, _, positions, inputs = self.a.shape
        outputs = self.g.shape[3]
        if basis.outputs is None or positions * (inputs**2 + outputs**2) > inputs * outputs * (inputs + outputs):
            return self._squares_of_gradients(basis)
        a = self._rotated(self.a, basis.inputs, "a")
        g = self._rotated(self.g, basis.outputs, "g")  # (R, B·T, ·)
        if positions == 1:
            return g.square().transpose(1, 2) @ a.square()
        a, g = (x.unflatten(1, (batch, -1)).transpose(0, 1) for x in (a, g))
        return DenseFactors(a, g).gradients(self.scratch).square_().sum(dim=0)

    def _rotated(self, x: Tensor, basis: Tensor, name: str) -> Tensor:
        """Express (B, R, T, n) in a basis, (R, B·T, n)."""
        rows = self._columns(x, name).transpose(1, 2)
        return torch.bmm(rows, basis, out=self.scratch.buffer(f"rotated {name}", rows.shape, x))

    def _squares_of_gradients(self, basis: EigenBasis) -> Tensor:
        gradients = self.gradients(self.scratch)
        batch, blocks, outputs, inputs = gradients.shape
        if blocks > 1:
            return basis.rotate(gradients).square_().sum(dim=0)
        rotated = self.scratch.buffer("rotated", (batch * outputs, inputs), gradients)
        torch.mm(gradients.flatten(0, 2), basis.inputs[0], out=rotated)
        if basis.outputs is not None:
            left = basis.outputs.transpose(1, 2).expand(batch, -1, -1)
            rotated = torch.bmm(left, rotated.view(batch, outputs, inputs), out=gradients.squeeze(1))
        return rotated.view(gradients.shape).square_().sum(dim=0)

    @property
    def _narrow(self) -> bool:
        """Whether the blocks are single rows or columns, which products would take one by one."""
        return min(self.a.shape[3], self.g.shape[3]) == 1

    def rotated(self, basis: EigenBasis) -> "DenseFactors":
        """See :class:`Factors`."""
        shape = (len(self.a), self.a.shape[2])
        a = self._rotated(self.a, basis.inputs, "a").unflatten(1, shape).transpose(0, 1)
        if basis.outputs is None:
            return DenseFactors(a, self.g, self.scratch)
        return DenseFactors(
            a, self._rotated(self.g, basis.outputs, "g").unflatten(1, shape).transpose(0, 1), self.scratch
        )

    def add_to(self, sums: Tensor, cell: Tensor) -> None:
        """See :class:`Factors`; takes a matrix product for each run of samples of the same cell."""
        if self._narrow:
            sums.index_add_(0, cell, self.gradients(self.scratch))
            return
        start = 0
        for each, count in zip(*(x.tolist() for x in cell.unique_consecutive(return_counts=True)), strict=True):
            a, g = (x[start : start + count] for x in (self.a, self.g))
            sums[each] += self._columns(g, "g") @ self._columns(a, "a").transpose(1, 2)
            start += count

    def along(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """See :class:`Factors`."""
        a, g = self._columns(self.a, "a")[0].T, self._columns(self.g, "g")[0].T
        return (a @ inputs).mul_(g @ outputs)

    def add_weighted(self, sums: Tensor, weights: Tensor) -> None:
        """See :class:`Factors`; outer products (T = 1) and few sums take a matrix product each, not the gradients."""
        if self._narrow or (self.a.shape[2] > 1 and len(sums) > FEW_SUMS):
            sums += (weights.T @ self.gradients(self.scratch).flatten(1)).view_as(sums)
            return
        inputs = self._columns(self.a, "a").transpose(1, 2)
        for total, weight in zip(sums, weights.T, strict=True):
            total += self._columns(self.g * weight[:, None, None, None], "g") @ inputs

    def dots(self, products: DotProducts) -> Tensor:
        """See :class:`Factors`.

        Forms the gradients first, at O·I·(T + D) operations a sample, unless they are outer products (T = 1). Then it
        multiplies the inputs by the directions, at O·I·D, which avoids moving O·I numbers a sample through memory.
        """
        outputs = self.g.shape[3]
        if self.a.shape[2] > 1 or self._narrow:
            return self.gradients(self.scratch).flatten(1) @ products.by_gradient
        a, g = self.a.squeeze(2).transpose(0, 1), self.g.squeeze(2)
        step = outputs * max(1, MOST_ELEMENTS // (a.shape[0] * a.shape[1] * outputs))
        found = []
        for by_input in products.by_input.split(step, dim=2):
            along = self.scratch.buffer("along", (*a.shape[:2], by_input.shape[2]), a)
            torch.bmm(a, by_input, out=along)  # (R, B, D·O)
            found.append(torch.einsum("rbdo,bro->bd", along.unflatten(2, (-1, outputs)), g))
        return torch.cat(found, dim=1)


def gram(columns: Tensor) -> Tensor:
    """X Xᵀ of (R, n, N). Computes the lower blocks and mirrors them."""
    size = columns.shape[1]
    block = size if columns.is_cuda else _GRAM_BLOCK  # starting many products takes a GPU longer than the whole one
    result = columns.new_empty(len(columns), size, size)
    for start in range(0, size, block):
        part = slice(start, min(start + block, size))
        result[:, part, : part.stop] = columns[:, part] @ columns[:, : part.stop].transpose(1, 2)
        result[:, :start, part] = result[:, part, :start].transpose(1, 2)
    return result


def flush_tiny(x: Tensor) -> Tensor:
    """Zero all entries below 1e-20 of the largest, in place: denormals slow the CPU down."""
    return x.masked_fill_(x.abs() < 1e-20 * x.abs().max(), 0)


def to_float64(x: Tensor) -> Tensor:
    """Convert to float64; moves to the CPU from a device without float64."""
    return x.cpu().double() if x.device.type == "mps" else x.double()
