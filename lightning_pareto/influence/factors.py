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


_IN_CACHE = 2**18
"""Numbers gathered from a table at a time."""

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
        return out.unflatten(0, (batch, blocks))

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


@dataclass(frozen=True)
class EmbeddingFactors(Factors):
    """Factors of an embedding table with V rows of length I: one block, O = V one-hot outputs, never formed.

    Attributes:
        tokens: row of every position, (B, T).
        a: gradient with respect to the row looked up, (B, T, I).
        rows: V.
    """

    tokens: Tensor
    a: Tensor
    rows: int

    @property
    def positions(self) -> int:
        """See :class:`Factors`."""
        return self.tokens.numel()

    def gradients(self) -> Tensor:
        """See :class:`Factors`."""
        dense = self.a.new_zeros(len(self.a), self.rows, self.a.shape[2])
        return dense.scatter_add_(1, self.tokens[:, :, None].expand_as(self.a), self.a)[:, None]

    def zeros(self, count: int) -> Tensor:
        """See :class:`Factors`."""
        return self.a.new_zeros(count, 1, self.rows, self.a.shape[2])

    def covariances(self) -> tuple[Tensor, Tensor]:
        """See :class:`Factors`; the output side counts how often each row has a gradient, (1, V)."""
        a = self.a.flatten(0, 1)
        counts = torch.bincount(self.tokens.flatten()[a.any(dim=1)], minlength=self.rows)
        return (a.T @ a)[None], counts[None].to(a)

    def squares(self, basis: EigenBasis) -> Tensor:
        """See :class:`Factors`."""
        _, row, gradients = self._rows_of_samples()
        squares = (gradients @ basis.inputs[0]).square()
        return squares.new_zeros(1, self.rows, squares.shape[1]).index_add_(1, row, squares[None])

    def add_to(self, sums: Tensor, cell: Tensor) -> None:
        """See :class:`Factors`."""
        index = cell[:, None] * self.rows + self.tokens
        sums.view(-1, self.a.shape[2]).index_add_(0, index.flatten(), self.a.flatten(0, 1))

    def add_weighted(self, sums: Tensor, weights: Tensor) -> None:
        """See :class:`Factors`."""
        sample, row, gradients = self._rows_of_samples()
        for total, weight in zip(sums[:, 0], weights.T, strict=True):
            total.index_add_(0, row, weight[sample, None] * gradients)

    def dots(self, products: DotProducts) -> Tensor:
        """See :class:`Factors`."""
        tokens, a = self.tokens.flatten(), self.a.flatten(0, 1)
        result = a.new_empty(len(a), len(products.directions))
        size = max(1, _IN_CACHE // products.by_row[0].numel())
        for part in (slice(start, start + size) for start in range(0, len(a), size)):
            result[part] = (a[part, None] @ products.by_row[tokens[part]]).squeeze(1)
        return result.view(*self.tokens.shape, -1).sum(dim=1)

    def _rows_of_samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every (sample, row) that occurs, once, with the gradient of that row, (n,), (n,), (n, I)."""
        key = torch.arange(len(self.tokens), device=self.tokens.device)[:, None] * self.rows + self.tokens
        keys, position = key.flatten().unique(return_inverse=True)
        gradients = self.a.new_zeros(len(keys), self.a.shape[2]).index_add_(0, position, self.a.flatten(0, 1))
        return keys // self.rows, keys % self.rows, gradients


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
