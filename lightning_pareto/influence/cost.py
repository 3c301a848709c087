"""What an influence estimate will cost, from a few timed batches, before the model is trained."""

import collections
import contextlib
import copy
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_pareto.data.loaders import size_of_batches, with_sampler
from lightning_pareto.display.terminal import duration, gibibytes, rounded, significant
from lightning_pareto.display.warning import once
from lightning_pareto.influence.categories import Cells, scan
from lightning_pareto.influence.clock import Clock
from lightning_pareto.influence.curvature import CurvatureError
from lightning_pareto.influence.curvature.ekfac import ENOUGH_SAMPLES
from lightning_pareto.influence.factors import to_float64
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.measures import get_measure
from lightning_pareto.influence.options import Execution, InfluenceOptions, Reading
from lightning_pareto.influence.passes import GradientPass, PlanChangedError
from lightning_pareto.influence.scoring import Scoring, free_bytes, most_bytes, size_of
from lightning_pareto.influence.setup import set_up
from lightning_pareto.influence.stages import Stages

BATCHES_TIMED = 2
"""How many batches each pass reads. The first only warms up."""

BATCHES_COMPARED = 1
"""How many batches are compared with autograd. The estimate compares more."""

SMALL = 200
"""Size of the matrix whose decomposition is timed."""

FEWEST_BATCHES = 20
"""With fewer batches in the training set, timing some would take as long as the estimate itself."""

STEP = "training step"

SHARE_OF_MEMORY = 0.8
"""Directions that take more than this share of the free memory are not tried."""

FEW_BATCHES = f"the training set has fewer than {FEWEST_BATCHES} batches per process, too few to time some of them"
SLOW_WORKERS = "the loader's workers are spawned, and starting them would take longer than the batches to be timed"
NO_MEMORY = "there is too little memory to time a few batches"
NO_INFLUENCE = "no parameter changes the outputs of the untrained model, so a few batches could not be timed"


@dataclass(frozen=True)
class Cost:
    """What an estimate will cost.

    Attributes:
        categories: number of categories.
        folds: number of folds. There is a direction, a gradient over the parameters, for every category and fold.
        parameters: number of parameters that they cover.
        memory: most memory that they take, in GiB.
        free: free memory of the device for each of the processes on it, in GiB.
        epochs: duration, in epochs of training on the whole training set; None if it was not timed.
        seconds: duration in seconds; None if it was not timed.
        untimed: why it was not timed.
    """

    categories: int
    folds: int
    parameters: int
    memory: float
    free: float
    epochs: float | None = None
    seconds: float | None = None
    untimed: str = ""

    @property
    def fits(self) -> bool:
        """Whether the memory suffices."""
        return self.memory <= SHARE_OF_MEMORY * self.free

    def __str__(self) -> str:
        if self.epochs is None or self.seconds is None:
            return f"{self.size}. How long it takes is unknown: {self.untimed}"
        return f"as long as {significant(self.epochs)} epochs of training ({duration(self.seconds)}), and {self.size}"

    @property
    def size(self) -> str:
        """The memory and what it is for, in words."""
        gradients = f"a gradient of {rounded(self.parameters)} parameters per category and fold"
        return f"up to {gibibytes(self.memory)} for {gradients} ({self.categories} × {self.folds})"


def forecast(
    module: nn.Module,
    train_dataloader: "DataLoader[Any]",
    val_dataloader: "DataLoader[Any]",
    *,
    reading: Reading,
    options: InfluenceOptions,
    execution: Execution,
) -> Cost:
    """Check data and model as an estimate would, run it on a few batches, and extrapolate its cost.

    Neither the module nor its gradients change. A pass counts with as many samples as it may take, so the duration
    errs on the long side. It is None, with a reason, if the training set has too few batches, if its workers start
    slowly, if the memory would not suffice, or if the module is in a state without influence, as some are before
    training.

    Args:
        module: the module, trained or not.
        train_dataloader: see :func:`estimate_influence`.
        val_dataloader: see :func:`estimate_influence`.
        reading: how to read samples.
        options: what to compute.
        execution: how the passes run.

    Raises:
        Exception: whatever :func:`estimate_influence` raises about data and model.
    """
    clock = Clock(next(module.parameters()).device)
    execution = replace(execution, progress=clock, stages_dir=None)
    loaders = train_dataloader, val_dataloader
    with set_up(
        module, *loaders, task=reading.task, layers=options.layers, execution=execution, compared=BATCHES_COMPARED
    ) as (train, validation):
        few, some = (
            replace(
                data.part(0, BATCHES_TIMED * data.batch_size * data.shard.count), loader=_with_one_worker(data.loader)
            )
            for data in (train, validation)
        )
        with warnings.catch_warnings(), once(set()):
            warnings.simplefilter("ignore")  # about categories that these samples lack
            cells = scan(
                some,
                get_measure(options.measure, reading.task.loss),
                categories=reading.categories,
                category_names=reading.category_names,
                folds=options.folds,
                seed=options.seed,
            )
        eigenvectors = _NoEigenvectors()
        scoring = Scoring(few, some, cells, options, Stages(None, "", train.shard), eigenvectors=eigenvectors)
        memory = most_bytes(execution.max_memory, train)
        free = free_bytes(train) / 2**30
        folds, categories = cells.support.shape
        peak = scoring.peak(memory, min(folds * categories, validation.size)) / 2**30
        cost = Cost(categories, folds, scoring.parameters, peak, free, untimed=NO_INFLUENCE)
        if len(few.indices) * FEWEST_BATCHES > train.size * BATCHES_TIMED:
            return replace(cost, untimed=FEW_BATCHES)
        if _starts_slowly(train_dataloader):
            return replace(cost, untimed=SLOW_WORKERS)
        if not train.shard.all(cost.fits):
            return replace(cost, untimed=NO_MEMORY)
        with contextlib.suppress(CurvatureError):
            seconds = _seconds(scoring, memory, clock, _batches_of_stages(train, validation, options))
            seconds += eigenvectors.seconds / train.shard.count
            batches = train.size / (size_of_batches(train_dataloader) * train.shard.count)
            epochs = seconds / (batches * _training_step(module, train, clock))
            return replace(cost, epochs=epochs, seconds=seconds, untimed="")
    return cost


def _seconds(scoring: Scoring, memory: float, clock: Clock, batches: Mapping[str, float]) -> float:
    """Extrapolate the duration of the whole scoring, which is linear in the number of directions, from a few."""
    count = scoring.cells.support.numel()
    more = min(count, max(8, count // 8))
    few = min(2, more)

    def seconds(directions: int) -> tuple[float, float, int]:
        """Seconds of solving and of scoring so many, and their bytes."""
        some = replace(scoring, cells=_merged(scoring.cells, directions))
        groups, solving = clock.extrapolate(partial(some.solved, curvature, 0, memory), batches)
        return solving, clock.extrapolate(partial(some.scored, groups), batches)[1], size_of(groups)

    while True:
        with contextlib.suppress(PlanChangedError):
            curvature, fit = clock.extrapolate(scoring.curvature, batches)
            *narrow, _ = seconds(few)
            *wide, size = seconds(more)
            blocks = max(1, math.ceil(2 * size / more * count / memory))
            each = [max(0.0, b - a) / max(1, more - few) for a, b in zip(narrow, wide, strict=True)]
            solving, scoring_pass = (max(0.0, a - few * one) for a, one in zip(narrow, each, strict=True))
            return fit + solving + blocks * scoring_pass + count * sum(each)


def _merged(cells: Cells, count: int) -> Cells:
    """The same samples in so many cells."""
    cell = cells.cell % count
    return Cells(cell, torch.bincount(cell, minlength=count)[None], tuple(map(str, range(count))))


class _NoEigenvectors:
    """Replaces eigenvectors by unit matrices, and estimates the time of the real ones from those of a small matrix."""

    def __init__(self) -> None:
        self._sizes: dict[Layer, list[tuple[int, int]]] = {}
        self._like: Tensor | None = None

    def __call__(self, layer: Layer, matrices: Tensor) -> Tensor:
        """Unit matrices like these, (R, n, n)."""
        self._like = matrices
        count, size, _ = matrices.shape
        self._sizes.setdefault(layer, []).append((count, size))
        return torch.eye(size).to(matrices).expand(count, -1, -1).contiguous()

    @property
    def seconds(self) -> float:
        """Duration of all decompositions. It grows with the cube of a matrix's size."""
        if self._like is None:
            return 0.0
        small = to_float64(torch.eye(SMALL).to(self._like)) + 0.01
        torch.linalg.eigh(small)
        start = time.perf_counter()
        float(torch.linalg.eigh(small)[0][0])
        each = time.perf_counter() - start
        return each * sum(count * (size / SMALL) ** 3 for sizes in self._sizes.values() for count, size in sizes)


def _batches_of_stages(train: GradientPass, validation: GradientPass, options: InfluenceOptions) -> Mapping[str, float]:
    """How many batches a process reads in each stage of the whole estimate, at most."""
    fitted = min(options.curvature_samples or train.size, train.size)
    samples = {"eigenvalues": min(fitted, ENOUGH_SAMPLES), "scores": train.size, "category gradients": validation.size}
    batch = train.batch_size * train.shard.count
    return collections.defaultdict(lambda: fitted / batch, {stage: n / batch for stage, n in samples.items()})


def _starts_slowly(loader: "DataLoader[Any]") -> bool:
    """Whether the loader's workers are spawned and import everything again, which takes seconds a pass."""
    context = loader.multiprocessing_context or torch.multiprocessing.get_context()
    return loader.num_workers > 0 and context.get_start_method() != "fork"


def _with_one_worker(loader: "DataLoader[Any]") -> "DataLoader[Any]":
    """The loader with at most one worker, since starting all for two batches takes longer than reading these."""
    twin = copy.copy(loader)
    twin.__dict__.update(num_workers=min(loader.num_workers, 1), _iterator=None)
    return twin


def _training_step(module: nn.Module, train: GradientPass, clock: Clock) -> float:
    """Seconds of a forward and backward pass over a batch of the training loader."""
    task, parameters = train.probe.task, [p for p in module.parameters() if p.requires_grad]
    few = range(min(train.size, BATCHES_TIMED * size_of_batches(train.loader)))
    loader = with_sampler(_with_one_worker(train.loader), few, drop_last=False, generator=torch.Generator())  # type: ignore[arg-type]
    clock(STEP, 0, len(loader))
    for done, batch in enumerate(map(train.moved, loader), start=1):
        targets = task.read_targets(batch)
        with train.probe.context():
            loss = task.loss(task.read_logits(module, batch, targets), targets).mean()
        torch.autograd.grad(loss, parameters, allow_unused=True)
        clock(STEP, done, len(loader))
    return clock.per_batch(STEP)
