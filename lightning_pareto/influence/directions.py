"""From validation gradients to directions, and from directions to scores."""

import functools

import torch
from torch import Tensor

from lightning_pareto.influence.categories import Cells
from lightning_pareto.influence.curvature.base import CurvatureError, Directions
from lightning_pareto.influence.gradients import Factors, chunks, sample_gradients
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.measures import Measure, logit_gradient
from lightning_pareto.influence.passes import GradientPass


def category_gradients(validation: GradientPass, measure: Measure, cells: Cells) -> Directions:
    """Mean gradient of the measure over every cell, (F·K, R, O, I) for every layer; zero where a cell is empty."""
    count = cells.support.numel()
    sums: dict[Layer, Tensor] = {}
    with validation.shard.agreement("category gradients"):
        for indices, _, forward in validation("category gradients"):
            signal = logit_gradient(measure, forward.logits, forward.targets)
            target = cells.cell[indices].to(signal.device)
            for layer, factors in forward.backward(signal):
                for part, chunk in chunks(factors):
                    gradients = sample_gradients(chunk)
                    if layer not in sums:
                        sums[layer] = gradients.new_zeros(count, *gradients.shape[1:])
                    sums[layer].index_add_(0, target[part], gradients)
    sizes = cells.support.reshape(-1).clamp(min=1)
    means = {}
    for layer in validation.probe.layers:
        if layer in sums:
            total = validation.shard.sum(sums[layer])
            means[layer] = total / sizes.to(total)[:, None, None, None]
    return means


class DotProducts:
    """Dot products of per-sample gradients with the D directions of one layer.

    With several positions the sample's gradient is formed first, at a cost of O·I·(T + D) a sample. With one it is an
    outer product and need not be: the inputs meet the directions at O·I·D, without O·I numbers of memory traffic.

    Args:
        directions: (D, R, O, I).
    """

    def __init__(self, directions: Tensor) -> None:
        self._directions = directions

    def __call__(self, factors: Factors) -> Tensor:
        """Return the dot products, (B, D)."""
        a, g = factors
        if a.shape[2] > 1:
            return sample_gradients(factors).flatten(1) @ self._by_gradient
        along = a.squeeze(2).transpose(0, 1) @ self._by_input  # (R, B, D·O)
        along = along.unflatten(2, (len(self._directions), -1))
        return torch.einsum("rbdo,bro->bd", along, g.squeeze(2))

    @functools.cached_property
    def _by_gradient(self) -> Tensor:
        """(R·O·I, D)."""
        return self._directions.flatten(1).T.contiguous()

    @functools.cached_property
    def _by_input(self) -> Tensor:
        """(R, I, D·O)."""
        return self._directions.permute(1, 3, 0, 2).flatten(2)


def score(train: GradientPass, measure: Measure, directions: Directions) -> tuple[Tensor, Tensor]:
    """Dot products of every training sample's loss gradient with every direction.

    Args:
        train: the training pass.
        measure: the training loss.
        directions: (D, R, O, I) for every layer.

    Returns:
        Scores (N, D) in float32 and labels (N,), of all processes.

    Raises:
        CurvatureError: if a score is not finite.
    """
    products = {layer: DotProducts(direction) for layer, direction in directions.items()}
    width = len(next(iter(directions.values())))
    scores = torch.zeros(train.size, width)
    labels = torch.zeros(train.size, dtype=torch.int64)
    with train.shard.agreement("scoring pass"):
        for indices, _, forward in train("scores"):
            signal = logit_gradient(measure, forward.logits, forward.targets)
            rows = torch.zeros(len(indices), width, dtype=torch.float64, device=signal.device)
            for layer, factors in forward.backward(signal):
                for part, chunk in chunks(factors):
                    rows[part] += products[layer](chunk)
            if not torch.isfinite(rows).all():
                raise CurvatureError("influence scores are not finite: raise the damping or look for a diverged model")
            scores[indices] = rows.float().cpu()
            labels[indices] = forward.targets.cpu()
    return train.shard.sum(scores), train.shard.sum(labels)
