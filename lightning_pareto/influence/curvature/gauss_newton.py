"""The exact Gauss-Newton matrix as one dense matrix, for small problems."""

import torch
from torch import Tensor

from lightning_pareto.influence.curvature.base import Curvature, CurvatureError, Directions
from lightning_pareto.influence.curvature.fisher import exact_signals
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.passes import GradientPass

LARGEST = 5_000


class GaussNewtonCurvature(Curvature):
    """H = (1/N) Σ_i J_iᵀ (diag p_i − p_i p_iᵀ) J_i over all covered parameters at once.

    Exact for the cross-entropy of a model that is linear in its parameters (there it is the Hessian), and the reference
    for every approximation. It costs C backward passes a batch and a P × P matrix of float64.

    Args:
        matrix: H, (P, P) in float64.
        layers: in the order of its rows.
        shapes: (R, O, I) of every layer that was reached.
        damping: λ as a share of the mean eigenvalue of each layer's block of H.
    """

    def __init__(self, matrix: Tensor, layers: list[Layer], shapes: dict[Layer, torch.Size], damping: float) -> None:
        parts = matrix.diagonal().split([layer.size for layer in layers])
        mean = matrix.diagonal().mean()  # for a layer that is not used; its gradients are zero
        shift = torch.cat([(damping * (part.mean() if part.any() else mean)).expand_as(part) for part in parts])
        damped = matrix + torch.diag(shift)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if failed or not torch.isfinite(factor).all():
            raise CurvatureError(f"the Gauss-Newton matrix is not positive definite at damping={damping}: raise it")
        self._factor = factor
        self._layers = layers
        self._shapes = shapes

    @classmethod
    def fit(cls, train: GradientPass, damping: float) -> "GaussNewtonCurvature":
        """Sum the matrix over one pass of the training set.

        Raises:
            ValueError: if there are more than 5,000 covered parameters.
        """
        layers = train.probe.layers
        size = sum(layer.size for layer in layers)
        _check_size(size)
        shapes: dict[Layer, torch.Size] = {}

        def matrix() -> Tensor:
            total = torch.zeros(size, size, dtype=torch.float64)
            for _, _, forward in train("gauss-newton"):
                for signal in exact_signals(forward.logits):
                    columns = {layer: torch.zeros(len(signal), layer.size, dtype=torch.float64) for layer in layers}
                    for layer, part, factors in forward.backward(signal):
                        gradients = factors.gradients()
                        shapes[layer] = gradients.shape[1:]
                        columns[layer][part] = gradients.flatten(1).cpu().double()
                    rows = torch.cat(list(columns.values()), dim=1)
                    total += rows.T @ rows
            return total

        total = train.completed("Gauss-Newton pass", matrix)
        return cls(train.shard.sum(total) / train.size, layers, shapes, damping)

    def solve(self, directions: Directions) -> Directions:
        """See :class:`Curvature`; only for layers that this process's part of the training set reaches."""
        like = next(iter(directions.values()))
        nothing = torch.zeros(len(like), 1)
        columns = [directions.get(layer, nothing.expand(-1, layer.size)).flatten(1) for layer in self._layers]
        right = torch.cat([column.cpu().double() for column in columns], dim=1)  # (D, P)
        parts = torch.cholesky_solve(right.T, self._factor).T.split([layer.size for layer in self._layers], dim=1)
        return {
            layer: part.unflatten(1, self._shapes[layer]).to(like)
            for layer, part in zip(self._layers, parts, strict=True)
            if layer in self._shapes
        }


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise ValueError(
            f'curvature="gauss_newton" builds a dense matrix over all {size} covered parameters; it serves up to '
            f'{LARGEST}. Use curvature="ekfac", freeze all but the last layers, or name the layers to keep: layers=[…]'
        )
