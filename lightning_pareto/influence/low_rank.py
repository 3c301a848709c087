"""Directions of one layer as products of two thin matrices."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_pareto.influence.factors import DenseFactors, Factors, to_float64
from lightning_pareto.influence.memory import MOST_ELEMENTS

OVERSAMPLING = 8
"""How many more columns than the rank the randomised range finder takes."""

MOST_SHARE = 2.0
"""How much more than what is allowed may be cut off a single matrix."""

PROBED = 4
"""Of how many matrices the rank is found first."""


@dataclass(frozen=True, eq=False)
class LowRankProducts:
    """Directions ``left @ rightᵀ`` of one layer, for dot products with per-sample gradients.

    Attributes:
        left: (D, O, r).
        right: (D, I, r).
    """

    left: Tensor
    right: Tensor

    @property
    def numel(self) -> int:
        """How many numbers are stored."""
        return self.left.numel() + self.right.numel()

    def __len__(self) -> int:
        return len(self.left)

    @functools.cached_property
    def by_output(self) -> Tensor:
        """(O, D·r)."""
        return self.left.transpose(0, 1).flatten(1)

    @functools.cached_property
    def by_input(self) -> Tensor:
        """(I, D·r)."""
        return self.right.transpose(0, 1).flatten(1)

    def dots(self, factors: Factors) -> Tensor:
        """Dot product of each gradient with each direction, (B, D).

        Multiplies either the two factors by the two thin matrices, at T·r·(O + I) operations, or the gradients by the
        directions, at O·I.
        """
        (count, outputs, rank), inputs, batch = self.left.shape, self.right.shape[1], len(factors.a)
        positions = factors.positions // batch
        dense = outputs * inputs * (1 + rank / batch)
        if isinstance(factors, DenseFactors) and positions * rank * (outputs + inputs) > dense:
            gradients = factors.gradients(factors.scratch).flatten(1)
            step = max(1, MOST_ELEMENTS // (outputs * inputs))
            parts = [slice(start, start + step) for start in range(0, count, step)]
            directions = (self.left[part] @ self.right[part].transpose(1, 2) for part in parts)
            return torch.cat([gradients @ each.flatten(1).T for each in directions], dim=1)
        step = rank * max(1, MOST_ELEMENTS // (factors.positions * rank))
        columns = [slice(start, start + step) for start in range(0, count * rank, step)]
        products = (factors.along(self.by_output[:, part], self.by_input[:, part]) for part in columns)
        return torch.cat([each.view(batch, positions, -1, rank).sum(dim=(1, 3)) for each in products], dim=1)


def truncate(matrices: Tensor, energy: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor] | None:
    """Cut off the smallest singular values of D matrices, (D, O, I), at the least rank that suffices in the mean.

    A randomised range finder with one subspace iteration finds the singular vectors. What it misses counts as cut off.
    All have the same rank r. What is cut off, relative to what is allowed, is at most 1 in the mean over the matrices
    that are not zero, and at most 2 in any of them.

    Args:
        matrices: the matrices X.
        energy: ``‖X‖²`` of each, (D,), finite.
        allowed: how large ``‖X − L Rᵀ‖²`` may be in each, (D,).

    Returns:
        L, (D, O, r), and R, (D, I, r), with orthonormal columns; None unless they have at most half as many numbers.

    Source: Halko, Martinsson and Tropp 2011, arXiv:0909.4061.
    """
    count, outputs, inputs = matrices.shape
    most = outputs * inputs // (2 * (outputs + inputs))
    few = slice(None, None, -(-count // PROBED))
    rank = _rank(_singular(matrices[few], most)[0], energy[few], allowed[few])
    while rank <= most:
        values, left, right = _singular(matrices, rank + OVERSAMPLING)
        found = _rank(values, energy, allowed)
        if found <= min(most, values.shape[1]):
            return left[:, :, :found], right[:, :, :found]
        rank += max(1, rank // 2)
    return None


def _rank(values: Tensor, energy: Tensor, allowed: Tensor) -> int:
    """The least rank that suffices, from the squared singular values, (D, q) descending; q + 1 if none of them does."""
    left_out = (to_float64(energy)[:, None] - values.cumsum(dim=1)).clamp_min(0)
    share = (left_out / to_float64(allowed)[:, None]).nan_to_num(nan=0.0)  # 0/0 for zeros
    count = (energy > 0).sum().clamp_min(1)
    return 1 + int(((share.sum(dim=0) > count) | (share.amax(dim=0) > MOST_SHARE)).sum())


def _singular(matrices: Tensor, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """The q largest singular values of D matrices, squared, (D, q), with L, (D, O, q), and R, (D, I, q).

    q is ``columns``, or the size of the matrices if that is smaller.
    """
    _, outputs, inputs = matrices.shape
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(inputs, min(columns, outputs, inputs), generator=generator).to(matrices)
    sketch = torch.linalg.qr((matrices.flatten(0, 1) @ start).unflatten(0, (-1, outputs)))[0]
    basis = torch.linalg.qr(matrices.transpose(1, 2) @ sketch)[0]  # (D, I, q)
    along = matrices @ basis
    exact = to_float64(along)
    values, vectors = torch.linalg.eigh(exact.transpose(1, 2) @ exact)
    vectors = vectors.flip(2).to(matrices)
    return values.flip(1), along @ vectors, basis @ vectors
