"""The exact Gauss-Newton matrix as a dense matrix, for small models."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_pareto.influence.curvature.base import Curvature, CurvatureError, Directions
from lightning_pareto.influence.curvature.fisher import Fisher
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.passes import GradientPass

MAX_PARAMETERS = 5_000


@dataclass(frozen=True)
class GaussNewtonCurvature(Curvature):
    """H = (1/N) Σ_i J_iᵀ (diag p_i − p_i p_iᵀ) J_i over all covered parameters at once.

    This is the reference for every approximation. For a model that is linear in its parameters it is the Hessian of the
    cross-entropy. It costs C backward passes per batch and a P × P matrix of float64.

    Attributes:
        factor: Cholesky factor of H + λI, (P, P) in float64. λ is a share of the mean eigenvalue of each layer's block.
        layers: the layers, in the order of the rows.
        shapes: (R, O, I) of every layer that the training set reaches.
    """

    factor: Tensor
    layers: list[Layer]
    shapes: dict[Layer, torch.Size]

    @classmethod
    def fit(cls, train: GradientPass, damping: float, fisher: Fisher) -> "GaussNewtonCurvature":
        """Compute the matrix in one pass over the training set."""
        layers, fisher = train.probe.layers, replace(fisher, name="exact")
        size = sum(layer.size for layer in layers)
        if size > MAX_PARAMETERS:
            raise ValueError(
                f'curvature="gauss_newton" builds a dense matrix for up to {MAX_PARAMETERS} parameters, found {size} '
                'covered parameters. Use curvature="ekfac", freeze all but the last layers, or select layers=[…]'
            )
        shapes: dict[Layer, torch.Size] = {}

        def sums() -> Tensor:
            total = torch.zeros(size, size, dtype=torch.float64)
            for indices, _, forward in train("gauss-newton"):
                for signal in fisher.signals(forward, indices):
                    columns = {layer: torch.zeros(len(signal), layer.size, dtype=torch.float64) for layer in layers}
                    for layer, part, factors in forward.backward(signal):
                        gradients = factors.gradients()
                        shapes[layer] = gradients.shape[1:]
                        columns[layer][part] = gradients.flatten(1).cpu().double()
                    rows = torch.cat(list(columns.values()), dim=1)
                    total += rows.T @ rows
            return total

        matrix = train.shard.sum(train.run("Gauss-Newton pass", sums)) / train.size
        mean = matrix.diagonal().mean()  # for unused layers, whose gradients are zero
        parts = matrix.diagonal().split([layer.size for layer in layers])
        shift = torch.cat([(damping * (part.mean() if part.any() else mean)).expand_as(part) for part in parts])
        factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag(shift))
        if failed or not torch.isfinite(factor).all():
            raise CurvatureError(f"the Gauss-Newton matrix is not positive definite. Raise damping={damping}")
        return cls(factor, layers, shapes)

    def solve(self, directions: Directions) -> Directions:
        """See :class:`Curvature`; leaves out layers that this process's part of the training set does not reach."""
        like = next(iter(directions.values()))
        zeros = torch.zeros(len(like), 1)
        columns = [directions.get(layer, zeros.expand(-1, layer.size)).flatten(1) for layer in self.layers]
        right = torch.cat([column.cpu().double() for column in columns], dim=1)  # (D, P)
        parts = torch.cholesky_solve(right.T, self.factor).T.split([layer.size for layer in self.layers], dim=1)
        return {
            layer: part.unflatten(1, self.shapes[layer]).to(like)
            for layer, part in zip(self.layers, parts, strict=True)
            if layer in self.shapes
        }
