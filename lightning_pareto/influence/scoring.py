"""From passes over two datasets to the scores of the training samples, a block of directions at a time."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lightning_pareto.influence.categories import Cells
from lightning_pareto.influence.curvature import CurvatureError, Fisher, fit_curvature
from lightning_pareto.influence.curvature.base import Curvature
from lightning_pareto.influence.curvature.ekfac import Eigenvectors
from lightning_pareto.influence.directions import category_gradients, score
from lightning_pareto.influence.fingerprint import fingerprint_of
from lightning_pareto.influence.measures import get_measure
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.influence.passes import GradientPass
from lightning_pareto.influence.stages import Stages, Tensors

COPIES = 4
"""How many copies of a block's directions, in float32, must fit into the memory."""


@dataclass(frozen=True)
class Scoring:
    """Scores training samples.

    Attributes:
        train: a pass over the training samples.
        validation: a pass over the validation samples.
        cells: folds and categories of the validation samples.
        options: what to compute.
        stages: where finished stages are kept.
        weights: weights that the module was fitted with, (N,); None if equal.
        eigenvectors: how EK-FAC decomposes its factors; None for ``torch.linalg.eigh``.
    """

    train: GradientPass
    validation: GradientPass
    cells: Cells
    options: InfluenceOptions
    stages: Stages
    weights: npt.NDArray[np.float64] | None = None
    eigenvectors: Eigenvectors | None = None

    @property
    def directions(self) -> int:
        """Number of directions, folds times categories."""
        return self.cells.support.numel()

    @property
    def parameters(self) -> int:
        """Number of parameters that a direction covers."""
        return sum(layer.size for layer in self.train.probe.layers)

    def curvature(self) -> Curvature:
        """Fit the curvature of the training loss."""
        options, task, train = self.options, self.train.probe.task, self.train
        fitted = None if self.weights is None else torch.from_numpy(self.weights)
        fisher = Fisher.draw(options.resolved_fisher, train.size, options.seed, task.loss, fitted)
        sample = train.sample(options.curvature_samples, options.seed)
        self.stages.variant = f" {fingerprint_of(train.probe.plan.to_json())}"
        return fit_curvature(
            options.curvature,
            sample,
            damping=options.damping,
            fisher=fisher,
            tolerance=options.tolerance,
            stages=self.stages,
            eigenvectors=self.eigenvectors,
        )

    def of_block(self, curvature: Curvature, block: range) -> Tensors:
        """Scores (N, D) of the D directions in a block, what was read of the samples, and which layers contribute."""
        train, task = self.train, self.train.probe.task
        gradients = category_gradients(self.validation, get_measure(self.options.measure, task.loss), self.cells, block)
        with train.shard.agreement("solving for the directions"):
            directions = curvature.solve(gradients) if gradients else {}
        if not directions:
            raise CurvatureError("the model's output depends on no covered parameter: cover other layers, layers=[…]")
        first = block.start == 0  # the others need not read the same again
        scores, labels, probabilities = score(train, task.loss, directions, probable=first)
        reached = torch.tensor([layer in directions for layer in train.probe.layers])
        found = {"scores": scores, "labels": labels, "reached": reached}
        return found | {"probabilities": probabilities} if first else found

    def of_all(self, curvature: Curvature, max_memory: float | None) -> Tensors:
        """The same for all directions, in blocks whose copies fit into ``max_memory`` GiB."""
        parts, width = [], self.width(max_memory)
        for start in range(0, self.directions, width):
            block = range(start, min(start + width, self.directions))
            name = f"scores of directions {block.start} to {block.stop}"
            work = functools.partial(self.of_block, curvature, block)
            parts.append(self.stages.load_or_compute(name, work, torch.device("cpu")))
        return parts[0] | {"scores": torch.cat([part["scores"] for part in parts], dim=1)}

    def width(self, max_memory: float | None) -> int:
        """Most directions in a block."""
        if max_memory is None:
            return self.directions
        return max(1, min(self.directions, int(max_memory * 2**30 / (COPIES * 4 * self.parameters))))
