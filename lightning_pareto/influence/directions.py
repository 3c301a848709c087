"""Mean gradients of the validation categories, and dot products of the training gradients with directions."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_pareto.influence.categories import Cells
from lightning_pareto.influence.curvature.base import CurvatureError, Directions, Products
from lightning_pareto.influence.factors import EigenBasis, to_float64
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.measures import Measure, logit_gradient
from lightning_pareto.influence.memory import Scratch
from lightning_pareto.influence.passes import GradientPass


def category_gradients(
    validation: GradientPass,
    measure: Measure,
    cells: Cells,
    chosen: Tensor,
    bases: Mapping[Layer, EigenBasis],
    buffers: Scratch,
) -> Directions:
    """Mean gradient of the measure over each of D cells, (D, R, O, I) for every layer. Only their samples are read.

    Args:
        validation: a pass over the validation samples.
        measure: the measure.
        cells: the samples' cells.
        chosen: numbers of the D cells, ascending.
        bases: bases in which to express the gradients of layers.
        buffers: memory of the result, which the next call overwrites.
    """
    position = torch.full((cells.support.numel(),), -1).scatter_(0, chosen, torch.arange(len(chosen)))[cells.cell]
    order = position.argsort(stable=True)
    samples = order[int((position < 0).sum()) :]  # by cells, so that a batch has few of them
    part, sizes = replace(validation, chosen=samples.tolist()), cells.support.flatten()[chosen]

    def sums() -> dict[Layer, Tensor]:
        sums: dict[Layer, Tensor] = {}
        rotated = dict.fromkeys(bases, True)
        for indices, _, forward in part("category gradients"):
            cell = position[indices]
            signal = logit_gradient(measure, forward.logits, forward.targets)
            signal = signal / sizes[cell, None].to(signal)
            cell = cell.to(signal.device)
            for layer, some, factors in forward.backward(signal):
                if layer not in sums:
                    one = factors.zeros(1)
                    sums[layer] = buffers.buffer(layer.names[0], (len(chosen), *one.shape[1:]), one).zero_()
                    rotated[layer] = layer in bases and factors.rotates_faster(len(samples), len(chosen))
                factors = factors.rotated(bases[layer]) if rotated[layer] else factors
                factors.add_to(sums[layer], cell[some])
        for layer, basis in bases.items():
            if layer in sums and not rotated[layer]:
                for each in sums[layer]:
                    each.copy_(basis.rotate(each))
        return sums

    return part.all_reduce(part.run("category gradients", sums))


def score(
    train: GradientPass, measure: Measure, groups: Sequence[Products], *, probable: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Dot products of every training sample's loss gradient with every direction.

    Args:
        train: the samples.
        measure: the training loss.
        groups: products with the D directions, in groups.
        probable: whether to read the probabilities. Otherwise they are (N, 0).

    Returns:
        Scores (N, D), labels (N,) and probabilities of the classes (N, C), complete on every process.
    """
    covered = {layer for products in groups for layer in products}
    ends = list(itertools.accumulate(len(next(iter(products.values()))) for products in groups))
    width = ends[-1]

    def rows() -> tuple[Tensor, Tensor, Tensor]:
        scores, labels = torch.zeros(train.size, width), torch.zeros(train.size, dtype=torch.int64)
        probabilities = torch.zeros(train.size, 0)
        for indices, _, forward in train("scores"):
            with train.locating_errors(indices):
                signal = logit_gradient(measure, forward.logits, forward.targets)
            found = torch.zeros(len(indices), width, dtype=torch.float64)
            for layer, part, factors in forward.backward(signal, omit=set(train.probe.layers) - covered):
                for products, end in zip(groups, ends, strict=True):
                    if layer in products:
                        dots = products[layer].dots(factors).cpu()
                        found[part, end - dots.shape[1] : end] += dots
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
