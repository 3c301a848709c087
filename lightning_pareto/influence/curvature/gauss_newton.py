"""The exact Gauss-Newton matrix as one dense matrix, for small problems."""

import torch
from torch import Tensor

from lightning_pareto.influence.curvature.base import Curvature, CurvatureError, Directions
from lightning_pareto.influence.curvature.fisher import exact_signals
from lightning_pareto.influence.gradients import sample_gradients
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.passes import GradientPass

LARGEST = 5_000


class GaussNewtonCurvature(Curvature):
    """H = (1/N) Σ_i J_iᵀ (diag p_i − p_i p_iᵀ) J_i over all covered parameters at once.

    Exact for the cross-entropy of a model that is linear in its parameters (there it is the Hessian), and the reference
    for every approximation. It costs C backward passes a batch and a P × P matrix of float64.

    Args:
        matrix: H, (P, P) in float64.
        shapes: the (R, O, I) of every layer, in the order of its rows.
        damping: λ as a share of H's mean eigenvalue.
    """

    def __init__(self, matrix: Tensor, shapes: dict[Layer, torch.Size], damping: float) -> None:
        damped = matrix + damping * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if failed or not torch.isfinite(factor).all():
            raise CurvatureError(f"the Gauss-Newton matrix is not positive definite at damping={damping}: raise it")
        self._factor = factor
        self._shapes = shapes

    @classmethod
    def fit(cls, train: GradientPass, damping: float) -> "GaussNewtonCurvature":
        """Sum the matrix over one pass of the training set.

        Raises:
            ValueError: if there are more than 5,000 covered parameters.
        """
        total: Tensor | None = None
        shapes: dict[Layer, torch.Size] = {}
        with train.shard.agreement("Gauss-Newton pass"):
            for _, _, forward in train("gauss-newton"):
                for signal in exact_signals(forward.logits):
                    gradients = {layer: sample_gradients(f) for layer, f in forward.backward(signal)}
                    shapes = {layer: gradients[layer].shape[1:] for layer in train.probe.layers if layer in gradients}
                    _check_size(shapes)
                    rows = torch.cat([gradients[layer].flatten(1) for layer in shapes], dim=1).double().cpu()
                    total = rows.T @ rows if total is None else total + rows.T @ rows
        if total is None:
            raise CurvatureError("no covered layer takes part in the forward pass")
        return cls(train.shard.sum(total) / train.size, shapes, damping)

    def solve(self, directions: Directions) -> Directions:
        """See :class:`Curvature`."""
        columns = torch.cat([directions[layer].flatten(1) for layer in self._shapes], dim=1)  # (D, P)
        solved = torch.cholesky_solve(columns.double().cpu().T, self._factor).T
        parts = solved.split([shape.numel() for shape in self._shapes.values()], dim=1)
        return {
            layer: part.unflatten(1, shape).to(directions[layer])
            for (layer, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


def _check_size(shapes: dict[Layer, torch.Size]) -> None:
    size = sum(shape.numel() for shape in shapes.values())
    if size > LARGEST:
        raise ValueError(
            f'curvature="gauss_newton" builds a dense matrix over all {size} covered parameters; it serves up to '
            f'{LARGEST}. Use curvature="ekfac", or freeze all but the last layers'
        )
