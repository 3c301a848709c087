"""Solves the Gauss-Newton system to a tolerance, without forming its matrix."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_pareto.display.warning import warn
from lightning_pareto.influence.curvature.base import Curvature, Directions
from lightning_pareto.influence.curvature.ekfac import EkfacCurvature
from lightning_pareto.influence.curvature.fisher import Fisher
from lightning_pareto.influence.factors import DotProducts, to_float64
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.passes import GradientPass

ITERATIONS = 100


@dataclass(frozen=True)
class ConjugateGradientCurvature(Curvature):
    """H = the Fisher information over all covered parameters, including interactions between layers.

    Conjugate gradients solve (H + λI) x = b for all D right-hand sides at once, with EK-FAC as the preconditioner. One
    iteration is a pass over the curvature's samples. It costs two or three epoch-equivalents with ``"sampled"`` labels,
    and that many per class with the ``"exact"`` Fisher information. λ of each layer is the same as in EK-FAC.

    Attributes:
        train: pass over the samples that define the curvature.
        fisher: which Fisher information.
        preconditioner: EK-FAC on the same samples.
        tolerance: norm of the residual, relative to the right-hand side, at which a direction counts as solved.
    """

    train: GradientPass
    fisher: Fisher
    preconditioner: EkfacCurvature
    tolerance: float

    def solve(self, directions: Directions) -> Directions:
        """See :class:`Curvature`; warns if the tolerance is not reached, with the remaining residual."""
        like = next(iter(directions.values()))
        right = {  # zeros for layers that are part of H but have no direction
            layer: directions[layer] if layer in directions else like.new_zeros(len(like), *values.shape)
            for layer, values in self.preconditioner.eigenvalues.items()
        }
        x = self.preconditioner.solve(right)
        right = {layer: right[layer] for layer in x}
        residual = _plus(right, self._apply(x, "residual"), -torch.ones(len(like)))
        z = self.preconditioner.solve(residual)
        p = z
        rz, target = _dot(residual, z), self.tolerance**2 * _dot(right, right)
        for iteration in range(1, ITERATIONS + 1):
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
            warn(
                f"conjugate gradients stopped after {ITERATIONS} iterations with a residual of {left:.1e}, above "
                f"the tolerance of {self.tolerance:.1e}. Raise the damping or the tolerance"
            )
        return x

    def _apply(self, directions: Directions, stage: str) -> Directions:
        """(H + λI) times each direction."""
        products = {layer: DotProducts(direction) for layer, direction in directions.items()}
        totals = self.train.all_reduce(self.train.run(stage, lambda: self._sums(products, stage)))
        return {
            layer: totals[layer] / self.train.size + self.preconditioner.shift(layer) * direction
            for layer, direction in directions.items()
        }

    def _sums(self, products: dict[Layer, DotProducts], stage: str) -> Directions:
        sums = {layer: torch.zeros_like(product.directions) for layer, product in products.items()}
        width = len(next(iter(sums.values())))
        omit, looped = set(self.train.probe.layers) - products.keys(), set(self.train.probe.plan.looped)
        for indices, _, forward in self.train(stage):
            for signal in self.fisher.signals(forward, indices):
                # Go over the factors twice, a part of the batch at a time, because they may not fit in memory at once.
                # Only the gradients of looped layers are kept, since batches are small then.
                uses, kept = forward.uses(signal, omit), []
                along = torch.zeros(len(signal), width, dtype=torch.float64)
                for layer, part, factors in forward.backward(signal, omit, uses):
                    along[part] += factors.dots(products[layer]).cpu().double()
                    if layer in looped:
                        kept.append((layer, part, factors))
                for layer, part, factors in itertools.chain(forward.backward(signal, omit | looped, uses), kept):
                    factors.add_weighted(sums[layer], along[part].to(sums[layer]))
        return sums


def _dot(a: Directions, b: Directions) -> Tensor:
    """Dot product of each pair of directions over all layers, in float64, (D,)."""
    products = (to_float64(a[layer]) * to_float64(b[layer]) for layer in a)
    return torch.stack([product.flatten(1).sum(1).cpu() for product in products]).sum(dim=0)


def _plus(a: Directions, b: Directions, factor: Tensor) -> Directions:
    """``a + factor · b``, with one factor per direction, (D,)."""
    return {layer: value + factor.to(value)[:, None, None, None] * b[layer] for layer, value in a.items()}


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, or zero for a direction that is solved exactly (b = 0)."""
    return torch.where(b > 0, a / b.clamp(min=torch.finfo(b.dtype).tiny), torch.zeros_like(a))
