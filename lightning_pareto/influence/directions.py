"""From validation gradients to directions, and from directions to scores."""

import torch
from torch import Tensor

from lightning_pareto.influence.categories import Cells
from lightning_pareto.influence.curvature.base import CurvatureError, Directions
from lightning_pareto.influence.factors import DotProducts
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
            for layer, part, factors in forward.backward(signal):
                if layer not in sums:
                    sums[layer] = factors.zeros(count)
                factors.add_to(sums[layer], target[part])
    sizes = cells.support.reshape(-1).clamp(min=1)
    return {layer: total / sizes.to(total)[:, None, None, None] for layer, total in validation.total(sums).items()}


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
            for layer, part, factors in forward.backward(signal):
                if layer in products:  # else the validation set does not reach it, and it cannot matter
                    rows[part] += factors.dots(products[layer])
            if not torch.isfinite(rows).all():
                raise CurvatureError("influence scores are not finite: raise the damping or look for a diverged model")
            scores[indices] = rows.float().cpu()
            labels[indices] = forward.targets.cpu()
    return train.shard.sum(scores), train.shard.sum(labels)
