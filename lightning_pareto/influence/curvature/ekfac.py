"""Eigenvalue-corrected Kronecker-factored curvature (George et al. 2018, arXiv:1806.03884)."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lightning_pareto.influence.curvature.base import Curvature, CurvatureError, Directions
from lightning_pareto.influence.curvature.fisher import sampled_signal
from lightning_pareto.influence.gradients import Factors, Forward, chunks, sample_gradients
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.passes import GradientPass

T = TypeVar("T")


@dataclass(frozen=True)
class EigenBasis:
    """The Kronecker eigenbasis of one layer.

    Attributes:
        inputs: eigenvectors of E[a aᵀ], (R, I, I).
        outputs: eigenvectors of E[g gᵀ], (R, O, O).
    """

    inputs: Tensor
    outputs: Tensor

    def rotate(self, matrices: Tensor) -> Tensor:
        """Bring (…, R, O, I) into the basis."""
        return self.outputs.transpose(-1, -2) @ matrices @ self.inputs

    def restore(self, matrices: Tensor) -> Tensor:
        """Undo :meth:`rotate`."""
        return self.outputs @ matrices @ self.inputs.transpose(-1, -2)

    def squared_gradients(self, factors: Factors) -> Tensor:
        """Sum over the batch of the squared per-sample gradients in the basis, (R, O, I)."""
        a, g = factors
        _, _, positions, width = a.shape
        if positions == 1:
            a, g = (a @ self.inputs).squeeze(2), (g @ self.outputs).squeeze(2)
            return torch.einsum("bro,bri->roi", g.square(), a.square())
        total = a.new_zeros(a.shape[1], g.shape[3], width)
        for _, part in chunks(factors):
            total += self.rotate(sample_gradients(part)).square().sum(dim=0)
        return total


class EkfacCurvature(Curvature):
    """Per layer H = Q Λ Qᵀ, Q a Kronecker product of eigenbases and Λ the second moments of the gradients in it.

    The gradients are those of labels drawn from the model's prediction (the true Fisher information), one draw a
    sample. Layers are treated as independent, and so are the groups of a convolution.

    Do not read much into it where layers interact strongly; compare with ``curvature="gauss_newton"`` on a small model.

    Args:
        bases: eigenbasis of every layer.
        eigenvalues: corrected eigenvalues Λ, (R, O, I) for every layer.
        damping: λ as a share of each layer's mean eigenvalue.
    """

    def __init__(self, bases: dict[Layer, EigenBasis], eigenvalues: dict[Layer, Tensor], damping: float) -> None:
        self.bases = bases
        self.eigenvalues = eigenvalues
        self.damping = damping

    @classmethod
    def fit(cls, train: GradientPass, damping: float, seed: int) -> "EkfacCurvature":
        """Fit factors and corrected eigenvalues in two passes over the training set.

        Args:
            train: the training pass.
            damping: λ as a share of each layer's mean eigenvalue.
            seed: of the drawn labels; a sample's label depends on its dataset index only.

        Raises:
            CurvatureError: if a layer's factors are not finite or cannot be decomposed.
        """
        uniforms = torch.rand(train.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        bases = {layer: _decompose(layer, *sums) for layer, sums in _covariances(train, uniforms).items()}
        return cls(bases, _corrected_eigenvalues(train, uniforms, bases), damping)

    def solve(self, directions: Directions) -> Directions:
        """See :class:`Curvature`."""
        solved = {}
        for layer, basis in self.bases.items():
            eigenvalues = self.eigenvalues[layer]
            damped = eigenvalues + self.damping * eigenvalues.mean().clamp(min=torch.finfo(eigenvalues.dtype).tiny)
            solved[layer] = basis.restore(basis.rotate(directions[layer]) / damped)
        return solved


def _sampled(forward: Forward, uniforms: Tensor, indices: Tensor) -> Tensor:
    return sampled_signal(forward.logits, uniforms[indices].to(forward.logits.device))


def _covariances(train: GradientPass, uniforms: Tensor) -> dict[Layer, tuple[Tensor, Tensor]]:
    sums: dict[Layer, tuple[Tensor, Tensor]] = {}
    with train.shard.agreement("factor pass"):
        for indices, _, forward in train("factors"):
            for layer, (a, g) in forward.backward(_sampled(forward, uniforms, indices)):
                a, g = a.transpose(0, 1).flatten(1, 2), g.transpose(0, 1).flatten(1, 2)  # (R, B·T, ·)
                batch = (a.transpose(1, 2) @ a, g.transpose(1, 2) @ g)
                sums[layer] = (sums[layer][0] + batch[0], sums[layer][1] + batch[1]) if layer in sums else batch
    return {layer: (train.shard.sum(a), train.shard.sum(g)) for layer, (a, g) in _in_order(train, sums).items()}


def _corrected_eigenvalues(
    train: GradientPass, uniforms: Tensor, bases: dict[Layer, EigenBasis]
) -> dict[Layer, Tensor]:
    sums: dict[Layer, Tensor] = {}
    with train.shard.agreement("eigenvalue pass"):
        for indices, _, forward in train("eigenvalues"):
            for layer, factors in forward.backward(_sampled(forward, uniforms, indices)):
                squares = bases[layer].squared_gradients(factors)
                sums[layer] = sums[layer] + squares if layer in sums else squares
    return {layer: train.shard.sum(total) / train.size for layer, total in _in_order(train, sums).items()}


def _in_order(train: GradientPass, sums: dict[Layer, T]) -> dict[Layer, T]:
    """The same order of layers on every process, or collectives would mix them up."""
    return {layer: sums[layer] for layer in train.probe.layers if layer in sums}


def _decompose(layer: Layer, a: Tensor, g: Tensor) -> EigenBasis:
    if not (torch.isfinite(a).all() and torch.isfinite(g).all()):
        raise CurvatureError(
            f"the curvature factors of layer {layer.name!r} are not finite: look for NaN or overflow in its inputs"
        )
    try:
        inputs, outputs = torch.linalg.eigh(a.double())[1], torch.linalg.eigh(g.double())[1]
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise CurvatureError(f"the eigendecomposition of layer {layer.name!r} did not converge: {error}") from error
    return EigenBasis(inputs.to(a.dtype), outputs.to(g.dtype))
