"""Prepares a model and its two datasets for an influence estimate."""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_pareto.data.labels import fingerprint_of_items, fingerprint_of_labels
from lightning_pareto.data.loaders import check_map_style, size_of_batches
from lightning_pareto.display.warning import warn
from lightning_pareto.influence.gradients import GradientProbe
from lightning_pareto.influence.layers import Layer, patterns_without, select_layers
from lightning_pareto.influence.memory import Memory, most_elements
from lightning_pareto.influence.options import Execution
from lightning_pareto.influence.passes import GradientPass
from lightning_pareto.influence.plan import Plan
from lightning_pareto.influence.sample_checks import check_labels, check_rows, check_samples
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.influence.verification import BATCHES_CHECKED, VERIFICATION_SAMPLES, misread_layers, verify


@contextlib.contextmanager
def set_up(
    module: nn.Module,
    train_dataloader: "DataLoader[Any]",
    val_dataloader: "DataLoader[Any]",
    *,
    task: ClassificationTask,
    layers: Sequence[str] | None,
    execution: Execution,
    compared: int = BATCHES_CHECKED,
) -> Iterator[tuple[GradientPass, GradientPass]]:
    """Check the loaders, put the module into evaluation mode, and compare its layers' gradients with autograd.

    Yields passes over the training and the validation dataset, with one probe. ``compared`` batches of either are read
    for it.
    """
    shard, limit = execution.shard, execution.max_memory
    for loader, name in ((train_dataloader, "train_dataloader"), (val_dataloader, "val_dataloader")):
        size = len(check_map_style(loader, name).dataset)  # type: ignore[arg-type]
        if size < shard.count:
            raise ValueError(f"{shard.count} processes cannot share a dataset of {size} samples: use fewer processes")
    _compare_processes(train_dataloader, val_dataloader, shard)
    covered = select_layers(module, layers)
    device = next(module.parameters()).device
    autocast, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    recurrent = any(isinstance(submodule, nn.RNNBase) for submodule in module.modules())

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        """For forward passes: the caller's autocast, if there is one, and the caller's context."""
        cudnn = contextlib.nullcontext() if not recurrent else _without_cudnn()
        with torch.autocast(device.type, dtype, autocast), cudnn, execution.context():
            yield

    memory = Memory(max(1, int(min(most_elements(device), (limit or math.inf) * 2**25))))
    probe = GradientProbe(module, covered, task, context=context, memory=memory)
    # The caller may have disabled gradients. Computations on gradients take no autocast.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False), probe.open():
        train = GradientPass(
            loader=train_dataloader,
            probe=probe,
            shard=shard,
            device=device,
            transfer=execution.transfer,
            progress=execution.progress,
            known=_unread(train_dataloader),
        )
        validation = replace(
            train,
            loader=val_dataloader,
            transfer=execution.val_transfer or execution.transfer,
            name="validation",
            known=_unread(val_dataloader),
        )
        passes = _verified(train, validation, covered, compared)
        _warn_about_loops(probe.plan, layers)
        yield passes


@contextlib.contextmanager
def _without_cudnn() -> Iterator[None]:
    """Disable cuDNN, whose recurrent layers have no backward pass in evaluation mode."""
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled


def _verified(
    train: GradientPass, validation: GradientPass, covered: Sequence[Layer], compared: int
) -> tuple[GradientPass, GradientPass]:
    """The passes, once their rows are known to be samples and their probe has a plan, the same on all processes."""
    probe = train.probe
    with train.shard.agreement("comparison with autograd"):
        train, validation = check_rows(train), check_rows(validation)
        few = VERIFICATION_SAMPLES if size_of_batches(train.loader) > 1 else 1  # samples of other sizes fit in no batch
        batch, classes = check_samples(train.sample(few, seed=0))
        check_labels(train, classes)
        if few == 1 and size_of_batches(validation.loader) > 1:  # one sample does not tell the layouts apart
            more = validation.sample(VERIFICATION_SAMPLES, seed=0)
            batch = more.batch_of(more.indices)
        verify(probe, batch)
    for data in (train, validation):
        for layer in data.run("comparison of batches", functools.partial(misread_layers, data, compared)):
            probe.plan.loop(layer)
    probe.plan = Plan.from_json(train.shard.from_first(probe.plan.to_json()), covered)
    return train, validation


def _compare_processes(train: "DataLoader[Any]", validation: "DataLoader[Any]", shard: Shard) -> None:
    """Refuse processes that read other samples than the first one, by their labels or a few items."""
    if shard.count == 1:
        return
    with shard.agreement("comparison of the data"):
        mine = repr([fingerprint_of_labels(each.dataset) or fingerprint_of_items(each) for each in (train, validation)])
    first = shard.from_first(mine)
    with shard.agreement("comparison of the data"):
        if mine != first:
            raise ValueError(
                f"process {shard.index} reads other samples than process 0. Every process must make the same datasets "
                "in the same order: seed random splits, random_split(…, generator=torch.Generator().manual_seed(0)), "
                "or call seed_everything(0) first"
            )


def _unread(loader: "DataLoader[Any]") -> npt.NDArray[np.int64]:
    return np.full(len(loader.dataset), -1, dtype=np.int64)  # type: ignore[arg-type]


def _warn_about_loops(plan: Plan, layers: Sequence[str] | None) -> None:
    looped = [layer.names[0] for layer, in_use in plan.looped.items() if in_use]
    if looped:
        fast = [name for layer in plan.factored for name in layer.names]
        advice = [*(layers or ()), *patterns_without(looped, fast)]
        warn(
            f"{len(looped)} parameter tensors are used in a way that has no fast per-sample gradient "
            f"({_some(looped, 4)}). They take a backward pass per sample, which is exact but slow."
            + (f" To leave them out: layers={advice}" if fast else "")
        )


def _some(names: list[str], most: int) -> str:
    return ", ".join([*names[:most], "…"] if len(names) > most else names)
