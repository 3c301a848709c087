"""Estimates the influence of every training sample on every category, in one pass for all categories."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_pareto.data.labels import fingerprint_of_items, fingerprint_of_labels
from lightning_pareto.data.loaders import sampling_weights
from lightning_pareto.display.terminal import listed
from lightning_pareto.display.warning import warn
from lightning_pareto.influence.categories import Categories, Cells, scan, warn_about_absent
from lightning_pareto.influence.copies import Projections, check_copies
from lightning_pareto.influence.curvature import FisherName
from lightning_pareto.influence.curvature.base import Curvature
from lightning_pareto.influence.fingerprint import (
    fingerprint_of,
    fingerprint_of_contents,
    fingerprint_of_data,
    fingerprint_of_model,
)
from lightning_pareto.influence.matrix import InfluenceMatrix, average_folds, checked_weights
from lightning_pareto.influence.measures import MeasureName, get_measure
from lightning_pareto.influence.options import CurvatureName, Execution, InfluenceOptions, Reading
from lightning_pareto.influence.passes import GradientPass, PlanChangedError, Progress, silent
from lightning_pareto.influence.plan import Plan
from lightning_pareto.influence.scoring import Scoring, most_bytes
from lightning_pareto.influence.setup import set_up
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.influence.stages import Stages, Tensors
from lightning_pareto.influence.task import ClassificationTask

STAGES_FORMAT = 2
"""Changes whenever finished stages hold other tensors."""

UNUSED = "not used"
"""What the metadata say of parameters that no output depends on."""


def estimate_influence(
    module: nn.Module,
    train_dataloader: "DataLoader[Any]",
    val_dataloader: "DataLoader[Any]",
    *,
    task: ClassificationTask | None = None,
    curvature: CurvatureName = "ekfac",
    measure: MeasureName = "loss",
    damping: float = 0.1,
    categories: Categories | None = None,
    category_names: Sequence[str] | None = None,
    weights: npt.ArrayLike | None = None,
    folds: int = 8,
    seed: int = 0,
    layers: Sequence[str] | None = None,
    fisher: FisherName | None = None,
    curvature_samples: int | None = 10_000,
    tolerance: float = 1e-3,
    truncation: float = 0.01,
    max_memory: float | None = None,
    stages_dir: str | os.PathLike[str] | None = None,
    shard: Shard | None = None,
    transfer: Callable[[Any], Any] | None = None,
    val_transfer: Callable[[Any], Any] | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: Progress = silent,
) -> InfluenceMatrix:
    r"""Estimate the influence of every training sample on every category of the validation set.

    ``P[i, k] = v_kᵀ (H + λI)⁻¹ ∇ℓ_i`` with v_k the mean gradient of the validation measure over category k. Only the
    K (times folds) directions ``(H + λI)⁻¹ v_k`` are solved for, so one pass over the training set gives the whole
    matrix. EK-FAC takes two more passes, for the factors and their eigenvalues.

    The model runs in evaluation mode, each submodule's own mode is restored, and ``.grad`` is not touched. Samples are
    read in index order, even if the loaders shuffle or drop some. With a random transform in the dataset, the scores
    are those of one random draw, so pass loaders without augmentation.

    The result takes N · K · folds numbers in memory. The directions take up to K · folds numbers per covered parameter,
    far fewer where they are truncated, within ``max_memory``. When memory runs out on a batch, the stage restarts with
    half the batch size.

    Args:
        module: the trained model, on its device.
        train_dataloader: loader of the map-style training dataset.
        val_dataloader: loader of the map-style validation dataset. It may be the training dataset itself, but
            :func:`check_pareto` and :func:`reweight` then refuse the result.
        task: how to read a batch; by default ``(x, y)`` batches and dict batches with ``labels``.
        curvature: ``"ekfac"`` works at any size. ``"cg"`` refines it to a tolerance, at some epochs per iteration.
            ``"gauss_newton"`` is exact for up to 5,000 parameters. ``"identity"`` gives plain gradient dot products.
        measure: ``"loss"`` or ``"soft_error"`` (one minus the probability of the true class).
        damping: λ of each layer, as a share of the mean eigenvalue of its block of H.
        categories: function of a validation batch returning (B,) integers; the labels by default.
        category_names: names of the K categories.
        weights: sample weights that the module was fitted with, (N,). By default those of the train loader's
            WeightedRandomSampler, otherwise equal weights. They enter the curvature. Changes start from them.
        folds: number of parts of the validation set whose scores are kept apart, for cross-fitting the verdict. A proof
            takes at least 3; 1 means no folds.
        seed: seed of the Fisher labels and of the folds.
        layers: cover only parameters whose qualified names match one of these shell patterns, for instance
            ``["head.*"]``. A pattern that starts with ``!`` leaves parameters out: ``["!embedding.weight"]`` covers
            everything else.
        fisher: ``"sampled"``, ``"exact"`` (a backward pass per class) or ``"empirical"``, see :class:`Fisher`. The
            default is sampled for ``"ekfac"`` and exact for ``"cg"``.
        curvature_samples: fit the curvature to this many random training samples; None for all.
        tolerance: relative residual at which ``"cg"`` stops.
        truncation: share of a direction's energy that may be cut off, under EK-FAC. Large layers then keep a direction
            as a product of two thin matrices, which saves most of the memory and, in linear layers without positions,
            of the time. At 0.01, the scores of a single fold and class keep a correlation of about 0.99 or more with
            those at 0. The metadata hold the lowest one of a few, measured, as ``"truncation_correlation"``.
        max_memory: limit in GiB for the directions, of which one at least is always taken. They are solved and scored
            in as many blocks as needed, each with another pass over the training set. By default a fifth of the free
            memory.
        stages_dir: an empty folder for finished stages. Repeat an interrupted call with the same folder, and it resumes
            after the last finished stage. The folder is removed at the end.
        shard: this process's part when several processes work together.
        transfer: moves a batch to the device; moves every tensor by default.
        val_transfer: the same for validation batches, if they need another function.
        context: entered around every forward pass, for instance autocast.
        progress: called with (stage, batches done, batches in total).

    Returns:
        The influence matrix; positive is beneficial, row i is index i of the training dataset.

    Raises:
        BatchError: if a batch, its labels or the logits cannot be read.
        TypeError: if a dataset has no indices.
        ValueError: for an empty dataset, validation samples that are training samples, non-finite losses, unknown
            options, or a module with nothing to cover.
        CurvatureError: if the curvature or the scores are not finite.
        StagesError: if ``stages_dir`` holds the stages of another computation. A folder that cannot be written only
            causes a warning.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from lightning_pareto.datasets import gaussian_classes
        >>> train, val = gaussian_classes(200, noise=0.3, seed=0), gaussian_classes(100, seed=1)
        >>> loaders = DataLoader(train.dataset(), 50), DataLoader(val.dataset(), 50)
        >>> estimate_influence(nn.Linear(2, 4), *loaders, folds=3)
        InfluenceMatrix(200 samples × 4 categories, 3 folds)

    Source: PARETO-LP-GA (arXiv:2510.03950); EK-FAC influence (Grosse et al. 2023, arXiv:2308.03296).
    """
    with estimating(
        module,
        train_dataloader,
        val_dataloader,
        reading=Reading(
            task=task or ClassificationTask(), categories=categories, category_names=category_names, weights=weights
        ),
        options=InfluenceOptions(
            curvature=curvature,
            measure=measure,
            damping=damping,
            folds=folds,
            seed=seed,
            layers=layers,
            fisher=fisher,
            curvature_samples=curvature_samples,
            tolerance=tolerance,
            truncation=truncation,
        ),
        execution=Execution(
            shard=shard or Shard(),
            transfer=transfer,
            val_transfer=val_transfer,
            context=context,
            progress=progress,
            max_memory=max_memory,
            stages_dir=stages_dir,
        ),
    ) as found:
        return found.influence


@dataclass(frozen=True, eq=False)
class Estimated:
    """An influence matrix and what it was computed with.

    Attributes:
        influence: the matrix.
        module: the module, in evaluation mode.
        train: a pass over the training samples.
        validation: a pass over the validation samples.
        cells: folds and categories of the validation samples.
        curvature: the curvature of the training loss.
    """

    influence: InfluenceMatrix
    module: nn.Module
    train: GradientPass
    validation: GradientPass
    cells: Cells
    curvature: Curvature


@contextlib.contextmanager
def estimating(
    module: nn.Module,
    train_dataloader: "DataLoader[Any]",
    val_dataloader: "DataLoader[Any]",
    *,
    reading: Reading,
    options: InfluenceOptions,
    execution: Execution,
) -> Iterator[Estimated]:
    """Same as :func:`estimate_influence`, with its options as objects. The passes stay open until the end."""
    with set_up(
        module, train_dataloader, val_dataloader, task=reading.task, layers=options.layers, execution=execution
    ) as (train, validation):
        seen = Projections(validation)
        cells = scan(
            validation,
            get_measure(options.measure, reading.task.loss),
            categories=reading.categories,
            category_names=reading.category_names,
            folds=options.folds,
            seed=options.seed,
            watch=seen.add,
        )
        itself = check_copies(train, validation, seen)
        weights = sampling_weights(train_dataloader.sampler) if reading.weights is None else reading.weights
        if weights is not None:
            weights = checked_weights(weights, train.size)
        with train.shard.agreement("fingerprint"):
            fingerprints = {
                "model": fingerprint_of_model(module),
                "train": fingerprint_of_data(train),
                "labels": (stored := fingerprint_of_labels(train_dataloader.dataset)),
                "items": None if stored else fingerprint_of_items(train_dataloader),
                "contents": fingerprint_of_contents(train_dataloader),
                "validation": fingerprint_of_data(validation),
            }
        limit, cell = execution.max_memory, fingerprint_of(cells.cell)
        fitted = fingerprint_of(weights)
        key = json.dumps([STAGES_FORMAT, asdict(options), limit, list(cells.names), cell, fingerprints, fitted])
        stages = Stages(execution.stages_dir, key, train.shard)
        scoring = Scoring(train, validation, cells, options, stages, weights)
        found = None
        while found is None:
            with contextlib.suppress(PlanChangedError):  # now it loops over a layer, so earlier results do not fit
                curvature = scoring.curvature()
                found = scoring.of_all(curvature, most_bytes(limit, train))
        if reading.categories is None:
            samples = torch.bincount(found["labels"], minlength=len(cells.names)).tolist()
            rest = "weights can affect these classes only through samples of other classes"
            warn_about_absent(cells.names, samples, kind="training", otherwise=rest)
        parameters = _methods(module, train.probe.plan, found["reached"].tolist())
        _warn_of_unused([name for name, how in parameters.items() if how == UNUSED])
        metadata: dict[str, Any] = {
            "options": asdict(options),
            "parameters": parameters,
            "fingerprints": fingerprints,
            "versions": {"torch": torch.__version__, "lightning_pareto": version("lightning_pareto")},
            "categories": "classes" if reading.categories is None else "own",
            "self_influence": itself,
        }
        if "correlation" in found and torch.isfinite(found["correlation"]):
            metadata["truncation_correlation"] = float(found["correlation"])
        yield Estimated(_assemble(found, cells, weights, metadata), module, train, validation, cells, curvature)
        stages.clear()


def _warn_of_unused(names: Sequence[str]) -> None:
    if names:
        warn(
            f"{len(names)} parameter tensors have no influence ({listed(names)}): in evaluation mode, outputs of no "
            "training or of no validation sample depend on them. If they should, look for adapters that eval() folds, "
            "and for layers that only run in training mode"
        )


def _assemble(
    found: Tensors, cells: Cells, weights: npt.NDArray[np.float64] | None, metadata: dict[str, Any]
) -> InfluenceMatrix:
    folds, count = cells.support.shape
    by_fold = found["scores"].reshape(-1, folds, count).transpose(0, 1).numpy()  # (F, N, K)
    support = cells.support.numpy()
    return InfluenceMatrix(
        average_folds(by_fold, support),
        found["labels"].numpy(),
        cells.names,
        predicted=found["probabilities"].argmax(dim=1).numpy(),
        probabilities=found["probabilities"].numpy(),
        weights=weights,
        support=support.sum(axis=0),
        fold_scores=by_fold if folds > 1 else None,
        fold_support=support if folds > 1 else None,
        metadata=metadata,
    )


def _methods(module: nn.Module, plan: Plan, reached: Sequence[bool]) -> dict[str, str]:
    """What the gradients of each trainable parameter come from."""
    covered = {
        name: method if used else UNUSED
        for (layer, method), used in zip(plan.methods.items(), reached, strict=True)
        for name in layer.names
    }
    ids = {id(p) for layer in plan.methods for p in layer.parameters}
    rest = [name for name, p in module.named_parameters() if p.requires_grad and id(p) not in ids]
    return covered | dict.fromkeys(rest, "left out")
