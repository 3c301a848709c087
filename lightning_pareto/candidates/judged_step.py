"""One small step with weights, measured on the validation samples that the weights do not know."""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lightning_pareto.candidates.evidence import Evidence
from lightning_pareto.candidates.weighted_steps import line_search, moved, weighted_gradients
from lightning_pareto.evaluation.outcome import Outcome, pooled
from lightning_pareto.influence.curvature.base import Curvature
from lightning_pareto.influence.curvature.conjugate_gradients import ConjugateGradientCurvature
from lightning_pareto.influence.estimate import Estimated
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.admissible import Float

Weigh = Callable[[InfluenceMatrix], Float]
"""Makes weights of the training samples, (N,), from their influence."""

LEAST_FOLDS = 2
"""Least number of folds that make two halves."""

MOST_SAMPLES = 5_000
"""How many training samples a step reads. On 10,000 images it costs two epochs of a small network, and less on more."""


def judge_step(estimated: Estimated, weigh: Weigh) -> tuple[Outcome, Outcome | None]:
    """Measure the model as it is, and after one second-order step on the weighted training loss.

    Half of the validation folds make weights, a step and its length. The other half measures it. Then the halves change
    places. So every validation sample is predicted by a model whose step does not know it, and the two outcomes can be
    compared by paired tests. The model keeps its parameters. Floors of the verdict play no part.

    Args:
        estimated: an influence matrix and what it was computed with.
        weigh: makes weights of the training samples, (N,), from the influence on one half.

    Returns:
        The outcome of the model, and that after the step; None if there are too few folds.
    """
    whole = _evidence(estimated)
    before, folds = whole.outcome(), len(estimated.cells.support)
    if folds < LEAST_FOLDS:
        return before, None
    with contextlib.closing(stepped(estimated, weigh)) as steps:  # an interruption restores the parameters at once
        parts = [
            (_of_samples(whole, unseen).outcome().placed(unseen.numpy(), before), unseen.numpy()) for unseen in steps
        ]
    return before, pooled(parts)


def stepped(estimated: Estimated, weigh: Weigh) -> Generator[Tensor, None, None]:
    """Move the model by the step of either half in turn. Yields the samples that the step does not know, (n,) bool."""
    whole = _evidence(estimated)
    folds, categories = estimated.cells.support.shape
    half = estimated.cells.cell // categories % 2
    with estimated.train.shard.agreement("weights of a judged step"):
        weights = [weigh(estimated.influence.of_folds(range(number, folds, 2))) for number in range(2)]
    gradients = weighted_gradients(whole.train, torch.from_numpy(np.stack(weights, axis=1)))
    for number in range(2):
        known = _of_samples(whole, half == number)
        with estimated.train.shard.agreement("judged step"):
            step = _curvature(estimated).solve({layer: each[number, None] for layer, each in gradients.items()})
        with moved(step, line_search(known, step, known.outcome())[0]):
            yield half != number


def _curvature(estimated: Estimated) -> Curvature:
    """The curvature, or EK-FAC instead of conjugate gradients, since a step need not be exact."""
    curvature = estimated.curvature
    return curvature.preconditioner if isinstance(curvature, ConjugateGradientCurvature) else curvature


def _evidence(estimated: Estimated) -> Evidence:
    """All validation samples, and at most :data:`MOST_SAMPLES` training samples."""
    categories = estimated.cells.support.shape[1]
    return Evidence(
        module=estimated.module,
        train=estimated.train.sample(MOST_SAMPLES, seed=0),
        validation=replace(estimated.validation, chosen=range(len(estimated.cells.cell))),
        category=estimated.cells.cell % categories,
        categories=categories,
        influence=estimated.influence,
        weights=torch.from_numpy(estimated.influence.present_weights),
    )


def _of_samples(whole: Evidence, chosen: Tensor) -> Evidence:
    """The evidence with some of its validation samples only, (n,) bool."""
    indices = chosen.nonzero().squeeze(1).tolist()
    return replace(whole, validation=replace(whole.validation, chosen=indices), category=whole.category[chosen])
