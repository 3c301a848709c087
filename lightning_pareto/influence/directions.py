"""Mean gradients of the validation categories, and dot products of the training gradients with directions."""

import torch
from torch import Tensor

from lightning_pareto.influence.categories import Cells
from lightning_pareto.influence.curvature.base import CurvatureError, Directions
from lightning_pareto.influence.factors import DotProducts, to_float64
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.measures import Measure, logit_gradient
from lightning_pareto.influence.passes import GradientPass


def category_gradients(validation: GradientPass, measure: Measure, cells: Cells, block: range) -> Directions:
    """Mean gradient of the measure over each of the D cells of a block, (D, R, O, I) for every layer; zero if empty."""

    def sums() -> dict[Layer, Tensor]:
        sums: dict[Layer, Tensor] = {}
        for indices, _, forward in validation("category gradients"):
            signal = logit_gradient(measure, forward.logits, forward.targets)
            cell = cells.cell[indices].to(signal.device) - block.start
            outside = (cell < 0) | (cell >= len(block))
            signal = signal.masked_fill(outside[:, None], 0)
            cell = cell.masked_fill(outside, 0)
            for layer, part, factors in forward.backward(signal):
                if layer not in sums:
                    sums[layer] = factors.zeros(len(block))
                factors.add_to(sums[layer], cell[part])
        return sums

    totals = validation.all_reduce(validation.run("category gradients", sums))
    sizes = cells.support.reshape(-1)[block.start : block.stop].clamp(min=1)
    return {layer: total / sizes.to(total)[:, None, None, None] for layer, total in totals.items()}


def score(
    train: GradientPass, measure: Measure, directions: Directions, *, probable: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Dot products of every training sample's loss gradient with every direction.

    Args:
        train: the samples.
        measure: the training loss.
        directions: D directions.
        probable: whether to read the probabilities. Otherwise they are (N, 0).

    Returns:
        Scores (N, D), labels (N,) and probabilities of the classes (N, C), complete on every process.
    """
    products = {layer: DotProducts(direction) for layer, direction in directions.items()}
    width = len(next(iter(directions.values())))

    def rows() -> tuple[Tensor, Tensor, Tensor]:
        scores, labels = torch.zeros(train.size, width), torch.zeros(train.size, dtype=torch.int64)
        probabilities = torch.zeros(train.size, 0)
        for indices, _, forward in train("scores"):
            with train.locating_errors(indices):
                signal = logit_gradient(measure, forward.logits, forward.targets)
            found = torch.zeros(len(indices), width, dtype=torch.float64)
            for layer, part, factors in forward.backward(signal, omit=set(train.probe.layers) - products.keys()):
                found[part] += factors.dots(products[layer]).cpu().double()
            if not torch.isfinite(found).all():
                raise CurvatureError("influence scores are not finite: raise the damping or look for a diverged model")
            scores[indices] = found.float()
            labels[indices] = forward.targets.cpu()
            if not probabilities.shape[1]:
                probabilities = torch.zeros(train.size, probable * forward.logits.shape[1])
            if probable:
                probabilities[indices] = to_float64(forward.logits.detach()).softmax(dim=1).cpu().float()
        return scores, labels, probabilities

    scores, labels, probabilities = train.run("scoring pass", rows)
    return train.shard.sum(scores), train.shard.sum(labels), train.shard.sum(probabilities)
