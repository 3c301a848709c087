"""The Gauss-Newton system solved to a tolerance, without ever forming its matrix."""

import itertools
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_pareto.influence.curvature.base import Curvature, Directions
from lightning_pareto.influence.curvature.ekfac import EkfacCurvature
from lightning_pareto.influence.curvature.fisher import Fisher
from lightning_pareto.influence.factors import DotProducts, accurate
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.passes import GradientPass


@dataclass(frozen=True)
class ConjugateGradientCurvature(Curvature):
    """H = the Fisher information over all covered parameters, layers and samples as they are; no Kronecker products.

    (H + λI) x = b is solved by conjugate gradients with EK-FAC as the preconditioner, for all D right-hand sides at
    once. One iteration is a pass over the samples of the curvature, at two or three epoch-equivalents for ``"sampled"``
    labels and that many for every class for the ``"exact"`` Fisher information. λ is that of EK-FAC, layer by layer.

    Attributes:
        train: the samples of the curvature.
        fisher: which Fisher information.
        preconditioner: EK-FAC on the same samples.
        tolerance: residual over right-hand side, in norm, at which a direction is solved.
        iterations: most iterations.
    """

    train: GradientPass
    fisher: Fisher
    preconditioner: EkfacCurvature
    tolerance: float
    iterations: int

    def solve(self, directions: Directions) -> Directions:
        """See :class:`Curvature`.

        Warns:
            UserWarning: with the residual that is left, if the tolerance is not reached.
        """
        right = self._completed(directions)
        x = self.preconditioner.solve(right)
        right = {layer: right[layer] for layer in x}
        residual = _plus(right, self._apply(x, "residual"), -1.0)
        z = self.preconditioner.solve(residual)
        p = z
        rz, target = _dot(residual, z), self.tolerance**2 * _dot(right, right)
        for iteration in range(1, self.iterations + 1):
            if bool((_dot(residual, residual) <= target).all()):
                break
            q = self._apply(p, f"conjugate gradients {iteration}")
            step = _ratio(rz, _dot(p, q))
            x, residual = _plus(x, p, step), _plus(residual, q, -step)
            z = self.preconditioner.solve(residual)
            new = _dot(residual, z)
            p, rz = _plus(z, p, _ratio(new, rz)), new
        left = float((_dot(residual, residual) / _dot(right, right).clamp(min=1e-300)).max().sqrt())
        if left > self.tolerance:
            warnings.warn(
                f"conjugate gradients stopped after {self.iterations} iterations with a residual of {left:.1e}, above "
                f"the tolerance of {self.tolerance:.1e}: raise the damping or the tolerance",
                stacklevel=2,
            )
        return x

    def _completed(self, directions: Directions) -> Directions:
        """With zeros for the layers that matter to H but have no direction."""
        like = next(iter(directions.values()))
        zeros = {
            layer: like.new_zeros(len(like), *values.shape)
            for layer, values in self.preconditioner.eigenvalues.items()
            if layer not in directions
        }
        return directions | zeros

    def _apply(self, directions: Directions, stage: str) -> Directions:
        """(H + λI) times each direction."""
        products = {layer: DotProducts(direction) for layer, direction in directions.items()}
        sums = self.train.completed(stage, lambda: self._sums(products, stage))
        totals = self.train.total(sums)
        return {
            layer: totals[layer] / self.train.size + self.preconditioner.shift(layer) * direction
            for layer, direction in directions.items()
        }

    def _sums(self, products: dict[Layer, DotProducts], stage: str) -> Directions:
        sums = {layer: torch.zeros_like(product.directions) for layer, product in products.items()}
        plan, width = self.train.probe.plan, len(next(iter(sums.values())))
        omit, looped = plan.without(products), set(plan.looped)
        for indices, _, forward in self.train(stage):
            for signal in self.fisher.signals(forward, indices):
                # The factors of a part of the batch at a time, twice: those of all of it might not fit the memory.
                # Only what takes a backward pass for every sample is held, for a batch that is small then.
                uses, held = forward.uses(signal, omit), []
                along = torch.zeros(len(signal), width, dtype=torch.float64)
                for layer, part, factors in forward.backward(signal, omit, uses):
                    along[part] += factors.dots(products[layer]).cpu().double()
                    if layer in looped:
                        held.append((layer, part, factors))
                again = itertools.chain(forward.backward(signal, omit | looped, uses), held)
                for layer, part, factors in again:
                    factors.add_weighted(sums[layer], along[part].to(sums[layer]))
        return sums


def _dot(a: Directions, b: Directions) -> Tensor:
    """Dot products direction by direction over all layers, in float64, (D,)."""
    return torch.stack([(accurate(a[layer]) * accurate(b[layer])).flatten(1).sum(1).cpu() for layer in a]).sum(dim=0)


def _plus(a: Directions, b: Directions, factor: float | Tensor) -> Directions:
    """``a + factor · b``, the factor one number for each direction."""
    return {layer: value + _each(factor, value) * b[layer] for layer, value in a.items()}


def _each(factor: float | Tensor, like: Tensor) -> float | Tensor:
    return factor.to(like)[:, None, None, None] if isinstance(factor, Tensor) else factor


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """A / b, zero for a direction that is solved exactly."""
    return torch.where(b > 0, a / b.clamp(min=torch.finfo(b.dtype).tiny), torch.zeros_like(a))
