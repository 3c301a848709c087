"""From passes over two datasets to the scores of the training samples, a block of directions at a time."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_pareto.influence.categories import Cells
from lightning_pareto.influence.curvature import CurvatureError, Fisher, fit_curvature
from lightning_pareto.influence.curvature.base import Curvature, Products
from lightning_pareto.influence.curvature.ekfac import Eigenvectors
from lightning_pareto.influence.directions import category_gradients, score
from lightning_pareto.influence.fingerprint import fingerprint_of
from lightning_pareto.influence.low_rank import LowRankProducts
from lightning_pareto.influence.measures import get_measure
from lightning_pareto.influence.memory import Scratch, free_memory
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.influence.passes import GradientPass
from lightning_pareto.influence.stages import Stages, Tensors

COPIES = 3
"""How many copies of the directions that are solved for at a time, in float32, must fit into the memory."""

MOST_NUMBERS = 2**26
"""Most numbers in the directions that are solved for at a time. More of them take longer, as memory is not reused."""

CHECKED, CHECKED_SAMPLES = 4, 256
"""How many directions are also scored as a whole, if they are truncated, and for how many training samples."""

SHARE = 0.2
"""Share of the free memory that directions may take by default."""


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

    @functools.cached_property
    def present(self) -> Tensor:
        """Numbers of the cells with samples, (D,). Each has a direction."""
        return self.cells.support.flatten().nonzero().squeeze(1)

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

    def of_all(self, curvature: Curvature, memory: float) -> Tensors:
        """Scores of all samples and cells, (N, F·K), what was read of the samples, and which layers contribute.

        Args:
            curvature: the curvature of the training loss.
            memory: limit in bytes for directions. They are scored in as many blocks as needed.
        """
        parts, start = [], 0
        while start < len(self.present):
            work = functools.partial(self.of_block, curvature, start, memory)
            parts.append(self.stages.load_or_compute(f"scores from direction {start}", work, torch.device("cpu")))
            start += parts[-1]["scores"].shape[1]
        found = parts[0]["scores"]
        scores = found.new_zeros(len(found), self.cells.support.numel())
        scores[:, self.present] = torch.cat([part["scores"] for part in parts], dim=1)
        if any(bool(part.pop("truncated").any()) for part in parts):
            work = functools.partial(self.correlation, curvature, scores, memory)
            parts[0] |= self.stages.load_or_compute("truncation", work, torch.device("cpu"))
        return parts[0] | {"scores": scores}

    def of_block(self, curvature: Curvature, start: int, memory: float) -> Tensors:
        """The same from one of the cells with samples on, as many as fit into the memory, at least one: (N, D)."""
        return self.scored(self.solved(curvature, start, memory), first=start == 0)

    def solved(self, curvature: Curvature, start: int, memory: float) -> list[Products]:
        """The directions from a number on that fit into the memory, in groups."""
        measure = get_measure(self.options.measure, self.train.probe.task.loss)
        width, bases = self.width(memory), curvature.expected_bases()
        groups: list[Products] = []
        buffers = Scratch()
        for first in range(start, len(self.present), width):
            taken = int(self.train.shard.from_first(str(size_of(groups))))  # ranks might differ by rounding
            if groups and taken * (1 + 1 / len(groups)) > memory / 2:
                break
            chosen = self.present[first : first + width]
            gradients = category_gradients(self.validation, measure, self.cells, chosen, bases, buffers)
            with self.train.shard.agreement("solving for the directions"):
                found = curvature.products(gradients, self.options.truncation) if gradients else {}
            if not found:
                raise CurvatureError(
                    "the model's output depends on no covered parameter: cover other layers, layers=[…]"
                )
            groups.append(found)
        return groups

    def scored(self, groups: list[Products], first: bool = True) -> Tensors:
        """Scores (N, D), and, in the first block, what was read of the samples."""
        train = self.train
        scores, labels, probabilities = score(train, train.probe.task.loss, groups, probable=first)
        reached = torch.tensor([any(layer in found for found in groups) for layer in train.probe.layers])
        truncated = [isinstance(products, LowRankProducts) for found in groups for products in found.values()]
        read = {"scores": scores, "labels": labels, "reached": reached, "truncated": torch.tensor(truncated)}
        return read | {"probabilities": probabilities} if first else read  # the others need not read the same again

    def correlation(self, curvature: Curvature, scores: Tensor, memory: float) -> Tensors:
        """The lowest correlation of scores with those of whole directions, for a few directions and samples.

        NaN if the scores of none of these directions vary.
        """
        train, loss = self.train.part(0, CHECKED_SAMPLES), self.train.probe.task.loss
        order = torch.randperm(len(self.present), generator=torch.Generator().manual_seed(0))
        chosen = self.present[order[: min(CHECKED, self.width(memory))].sort()[0]]
        bases, measure = curvature.expected_bases(), get_measure(self.options.measure, loss)
        gradients = category_gradients(self.validation, measure, self.cells, chosen, bases, Scratch())
        with train.shard.agreement("solving for the directions"):
            whole = curvature.products(gradients, truncation=0.0)
        exact, *_ = score(train, loss, [whole], probable=False)
        found = torch.stack([scores[: len(exact)][:, chosen].T, exact.T]).double()
        varied = [torch.corrcoef(pair)[0, 1] for pair in found.transpose(0, 1) if bool((pair[1] != pair[1, 0]).any())]
        return {"correlation": torch.stack(varied).min() if varied else torch.tensor(torch.nan)}

    def width(self, memory: float) -> int:
        """How many directions to solve for at a time."""
        return max(1, min(len(self.present), int(min(memory / (8 * COPIES), MOST_NUMBERS) / self.parameters)))

    def peak(self, memory: float, directions: int) -> float:
        """Bytes that so many directions take at most, while they are solved for and kept."""
        one = 4 * self.parameters
        return max(min(memory, one * directions * (1 + COPIES)), one * (1 + COPIES))


def size_of(groups: Sequence[Products]) -> int:
    """Bytes of groups of directions in float32."""
    return 4 * sum(products.numel for group in groups for products in group.values())


def most_bytes(max_memory: float | None, train: GradientPass) -> float:
    """The user's limit in GiB as bytes, or a share of what is free on the device, the same on all processes."""
    if max_memory is not None:
        return max_memory * 2**30
    free = torch.zeros(train.shard.count, dtype=torch.float64)
    free[train.shard.index] = free_bytes(train)
    return SHARE * float(train.shard.sum(free).min())


def free_bytes(train: GradientPass) -> float:
    """Free memory of the device in bytes, for each of the processes on it."""
    return free_memory(train.device) / (1 if train.device.type == "cuda" else train.shard.on_one_machine)
