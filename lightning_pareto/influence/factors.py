"""Per-sample gradients in factored form, and what influence needs of them.

Everything here relies on one shape convention, with B samples, R independent blocks (the groups of a convolution, the
features of a normalisation, else 1) and T positions (pixels, tokens, repeated calls):

    inputs            a  (B, R, T, I)
    output gradients  g  (B, R, T, O)
    sample gradient   G = gᵀ a  (B, R, O, I)

The bias is one more input that is always one. An embedding is the case of an output side that is one-hot.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_pareto.influence.scratch import Scratch


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
        """Bring (…, R, O, I) into the basis."""
        turned = matrices @ self.inputs
        return turned if self.outputs is None else self.outputs.transpose(-1, -2) @ turned

    def restore(self, matrices: Tensor) -> Tensor:
        """Undo :meth:`rotate`."""
        turned = matrices @ self.inputs.transpose(-1, -2)
        return turned if self.outputs is None else self.outputs @ turned


_GRAM_BLOCK = 128
"""Rows of a symmetric matrix computed at a time."""


class DotProducts:
    """Directions of one layer, ready for dot products with per-sample gradients.

    Args:
        directions: (D, R, O, I).
    """

    def __init__(self, directions: Tensor) -> None:
        self.directions = directions

    @functools.cached_property
    def by_gradient(self) -> Tensor:
        """(R·O·I, D)."""
        return self.directions.flatten(1).T.contiguous()

    @functools.cached_property
    def by_row(self) -> Tensor:
        """Of an embedding, (V, I, D)."""
        return self.directions[:, 0].permute(1, 2, 0).contiguous()

    @functools.cached_property
    def by_input(self) -> Tensor:
        """(R, I, D·O)."""
        return self.directions.permute(1, 3, 0, 2).flatten(2)


class Factors(ABC):
    """Per-sample gradients of a part of a batch for one layer."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """Samples times positions."""

    @abstractmethod
    def gradients(self) -> Tensor:
        """The gradients themselves, (B, R, O, I)."""

    @abstractmethod
    def zeros(self, count: int) -> Tensor:
        """Room for ``count`` gradients, (count, R, O, I)."""

    @abstractmethod
    def covariances(self) -> tuple[Tensor, Tensor]:
        """Sums of a aᵀ (R, I, I) and g gᵀ (R, O, O), or its diagonal (R, O), over samples and positions."""

    @abstractmethod
    def squares(self, basis: EigenBasis) -> Tensor:
        """Sum over samples of the squared gradients in a basis, (R, O, I)."""

    @abstractmethod
    def add_to(self, sums: Tensor, cell: Tensor) -> None:
        """Add each sample's gradient to its cell, in place: sums (cells, R, O, I), cell (B,)."""

    @abstractmethod
    def add_weighted(self, sums: Tensor, weights: Tensor) -> None:
        """Add the weighted sums of the gradients, in place: sums (D, R, O, I), weights (B, D)."""

    @abstractmethod
    def dots(self, products: DotProducts) -> Tensor:
        """Dot products of each gradient with each direction, (B, D)."""


@dataclass(frozen=True)
class DenseFactors(Factors):
    """Factors as two tensors.

    Attributes:
        a: inputs, (B, R, T, I).
        g: output gradients, (B, R, T, O).
        scratch: room for what is computed from them.
    """

    a: Tensor
    g: Tensor
    scratch: Scratch = field(default_factory=Scratch, repr=False)

    @property
    def positions(self) -> int:
        """See :class:`Factors`."""
        return self.a.shape[0] * self.a.shape[2]

    def gradients(self) -> Tensor:
        """See :class:`Factors`."""
        return self._gradients(Scratch())

    def _gradients(self, scratch: Scratch) -> Tensor:
        batch, blocks, positions, inputs = self.a.shape
        out = scratch.room("gradients", (batch * blocks, self.g.shape[3], inputs), self.a)
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
        """Bring (B, R, T, n) to (R, n, B·T), in the order in which the numbers lie in memory."""
        if x.stride(3) != 1:
            columns = self.scratch.room(name, [x.shape[axis] for axis in (1, 3, 0, 2)], x)
            return columns.copy_(x.permute(1, 3, 0, 2)).flatten(2)
        rows = x.transpose(0, 1)
        if not rows.is_contiguous():
            rows = self.scratch.room(name, rows.shape, x).copy_(rows)
        return rows.flatten(1, 2).transpose(1, 2)

    def squares(self, basis: EigenBasis) -> Tensor:
        """Rotate the factors first or the gradients, whichever is cheaper."""
        batch, _, positions, inputs = self.a.shape
        outputs = self.g.shape[3]
        if basis.outputs is None or positions * (inputs**2 + outputs**2) > inputs * outputs * (inputs + outputs):
            return self._squares_of_gradients(basis)
        a = self._rotated(self.a, basis.inputs, "a")
        g = self._rotated(self.g, basis.outputs, "g")  # (R, B·T, ·)
        if positions == 1:
            return g.square().transpose(1, 2) @ a.square()
        turned = DenseFactors(
            a.unflatten(1, (batch, -1)).transpose(0, 1), g.unflatten(1, (batch, -1)).transpose(0, 1), self.scratch
        )
        return turned._gradients(self.scratch).square_().sum(dim=0)

    def _rotated(self, x: Tensor, basis: Tensor, name: str) -> Tensor:
        """Bring (B, R, T, n) into a basis, (R, B·T, n)."""
        rows = self._columns(x, name).transpose(1, 2)
        return torch.bmm(rows, basis, out=self.scratch.room(f"rotated {name}", rows.shape, x))

    def _squares_of_gradients(self, basis: EigenBasis) -> Tensor:
        gradients = self._gradients(self.scratch)
        batch, blocks, outputs, inputs = gradients.shape
        if blocks > 1:
            return basis.rotate(gradients).square_().sum(dim=0)
        turned = self.scratch.room("turned", (batch * outputs, inputs), gradients)
        torch.mm(gradients.flatten(0, 2), basis.inputs[0], out=turned)
        if basis.outputs is not None:
            left = basis.outputs.transpose(1, 2).expand(batch, -1, -1)
            turned = torch.bmm(left, turned.view(batch, outputs, inputs), out=gradients.squeeze(1))
        return turned.view(gradients.shape).square_().sum(dim=0)

    def add_to(self, sums: Tensor, cell: Tensor) -> None:
        """See :class:`Factors`."""
        sums.index_add_(0, cell, self._gradients(self.scratch))

    def add_weighted(self, sums: Tensor, weights: Tensor) -> None:
        """See :class:`Factors`."""
        sums += (weights.T @ self._gradients(self.scratch).flatten(1)).view_as(sums)

    def dots(self, products: DotProducts) -> Tensor:
        """Form the gradient first, at O·I·(T + D) a sample, unless it is an outer product.

        Then the inputs meet the directions at O·I·D, without O·I numbers of memory traffic.
        """
        outputs, inputs = products.directions.shape[2:]
        if self.a.shape[2] > 1 or min(outputs, inputs) == 1:
            return self._gradients(self.scratch).flatten(1) @ products.by_gradient
        a = self.a.squeeze(2).transpose(0, 1)
        along = self.scratch.room("along", (*a.shape[:2], products.by_input.shape[2]), a)
        torch.bmm(a, products.by_input, out=along)  # (R, B, D·O)
        return torch.einsum("rbdo,bro->bd", along.unflatten(2, (-1, outputs)), self.g.squeeze(2))


def gram(columns: Tensor) -> Tensor:
    """X Xᵀ of (R, n, N): the blocks above the diagonal are had from those below."""
    size = columns.shape[1]
    result = columns.new_empty(len(columns), size, size)
    for start in range(0, size, _GRAM_BLOCK):
        part = slice(start, min(start + _GRAM_BLOCK, size))
        result[:, part, : part.stop] = columns[:, part] @ columns[:, : part.stop].transpose(1, 2)
        result[:, :start, part] = result[:, part, :start].transpose(1, 2)
    return result


def without_dust(x: Tensor) -> Tensor:
    """Zero what is less than 1e-20 of the largest value: numbers that near to nothing make a processor slow."""
    return x.masked_fill_(x.abs() < 1e-20 * x.abs().max(), 0)


def accurate(x: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()
