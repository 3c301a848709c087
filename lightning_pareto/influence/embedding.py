"""Per-sample gradients of an embedding table, where each sample touches few rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_pareto.influence.factors import DotProducts, EigenBasis, Factors

_CACHE_SIZE = 2**18
"""How many numbers to gather from a table at a time, so that they stay in the CPU's cache."""


@dataclass(frozen=True)
class EmbeddingFactors(Factors):
    """Factors of an embedding table: one block (R = 1) with O = V one-hot outputs, which are never formed.

    Attributes:
        tokens: row looked up at every position, (B, T).
        a: gradient with respect to that row, (B, T, I).
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
        """See :class:`Factors`; the output side counts how often each row has a nonzero gradient, (1, V)."""
        a = self.a.flatten(0, 1)
        counts = torch.bincount(self.tokens.flatten()[a.any(dim=1)], minlength=self.rows)
        return (a.T @ a)[None], counts[None].to(a)

    def squares(self, basis: EigenBasis) -> Tensor:
        """See :class:`Factors`."""
        _, row, gradients = self._row_gradients()
        squares = (gradients @ basis.inputs[0]).square()
        return squares.new_zeros(1, self.rows, squares.shape[1]).index_add_(1, row, squares[None])

    def rotates_faster(self, samples: int, count: int) -> bool:
        """See :class:`Factors`; only the inputs are rotated."""
        return samples * self.positions < count * self.rows * len(self.a)

    def rotated(self, basis: EigenBasis) -> "EmbeddingFactors":
        """See :class:`Factors`."""
        return EmbeddingFactors(self.tokens, self.a @ basis.inputs[0], self.rows)

    def add_to(self, sums: Tensor, cell: Tensor) -> None:
        """See :class:`Factors`."""
        index = cell[:, None] * self.rows + self.tokens
        sums.view(-1, self.a.shape[2]).index_add_(0, index.flatten(), self.a.flatten(0, 1))

    def add_weighted(self, sums: Tensor, weights: Tensor) -> None:
        """See :class:`Factors`."""
        sample, row, gradients = self._row_gradients()
        for total, weight in zip(sums[:, 0], weights.T, strict=True):
            total.index_add_(0, row, weight[sample, None] * gradients)

    def along(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """See :class:`Factors`."""
        return (self.a.flatten(0, 1) @ inputs).mul_(outputs[self.tokens.flatten()])

    def dots(self, products: DotProducts) -> Tensor:
        """See :class:`Factors`."""
        tokens, a = self.tokens.flatten(), self.a.flatten(0, 1)
        result = a.new_empty(len(a), len(products.directions))
        size = max(1, _CACHE_SIZE // products.by_row[0].numel())
        for part in (slice(start, start + size) for start in range(0, len(a), size)):
            result[part] = (a[part, None] @ products.by_row[tokens[part]]).squeeze(1)
        return result.view(*self.tokens.shape, -1).sum(dim=1)

    def _row_gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Each (sample, row) pair that occurs, once, with its gradient: samples (n,), rows (n,), gradients (n, I)."""
        key = torch.arange(len(self.tokens), device=self.tokens.device)[:, None] * self.rows + self.tokens
        keys, position = key.flatten().unique(return_inverse=True)
        gradients = self.a.new_zeros(len(keys), self.a.shape[2]).index_add_(0, position, self.a.flatten(0, 1))
        return keys // self.rows, keys % self.rows, gradients
