"""What every computation over a model and its two datasets begins with."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_pareto.data.loaders import check_map_style
from lightning_pareto.influence.execution import Execution
from lightning_pareto.influence.gradients import GradientProbe, Plan
from lightning_pareto.influence.layers import Selection, select_layers
from lightning_pareto.influence.memory import Memory
from lightning_pareto.influence.passes import GradientPass, PlanChangedError
from lightning_pareto.influence.sample_checks import check_labels, check_samples
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.influence.verification import VERIFIED, plan_as_text, plan_from, verify

T = TypeVar("T")


@dataclass(frozen=True)
class Setup:
    """Passes over both datasets, through one probe.

    Attributes:
        train: over the training set.
        validation: over the validation set.
        selection: the parameters.
    """

    train: GradientPass
    validation: GradientPass
    selection: Selection

    @property
    def plan(self) -> Plan:
        """How the parameters' per-sample gradients are had."""
        return self.train.probe.plan


def settled(work: Callable[[], T]) -> T:
    """Do the work, from the beginning whenever a layer turns out not to be what it seemed."""
    while True:
        try:
            return work()
        except PlanChangedError:  # it is looped over from now on, and nothing found before fits
            continue


@contextlib.contextmanager
def set_up(
    module: nn.Module,
    train_dataloader: "DataLoader[Any]",
    val_dataloader: "DataLoader[Any]",
    *,
    task: ClassificationTask,
    layers: Sequence[str] | None,
    execution: Execution,
) -> Iterator[Setup]:
    """Check the loaders, put the module into evaluation mode, and compare its layers' gradients with autograd.

    Args:
        module: the trained model.
        train_dataloader: over the training set.
        val_dataloader: over the validation set.
        task: reads batches.
        layers: shell patterns of the parameters to take; None for all.
        execution: how the passes run.
    """
    shard, bound = execution.shard, execution.max_memory
    _check_size(check_map_style(train_dataloader, "train_dataloader"), shard)
    _check_size(check_map_style(val_dataloader, "val_dataloader"), shard)
    selection = select_layers(module, layers)
    memory = Memory() if bound is None else Memory(max(1, min(Memory().elements, int(bound * 2**25))))
    device = next(module.parameters()).device
    context = _with_outer_autocast(execution.context, device.type)
    probe = GradientProbe(module, selection.layers, task, context=context, memory=memory)
    with probe.open(), _differentiable(device.type):
        train = GradientPass(
            loader=train_dataloader,
            probe=probe,
            shard=shard,
            device=device,
            transfer=execution.transfer,
            progress=execution.progress,
        )
        to_device = execution.val_transfer or execution.transfer
        validation = replace(train, loader=val_dataloader, transfer=to_device, name="validation")
        with shard.agreement("comparison with autograd"):
            some = train.drawn(VERIFIED, seed=0)
            classes = check_samples(some, VERIFIED)
            check_labels(train, classes)
            verify(probe, some.first(VERIFIED))
        probe.plan = plan_from(shard.from_first(plan_as_text(probe.plan)), selection.layers)
        _warn_of_loops(probe.plan)
        yield Setup(train, validation, selection)


@contextlib.contextmanager
def _differentiable(device_type: str) -> Iterator[None]:
    """Gradients can be had whatever the caller has switched off, and what is made of them stays in float32."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device_type, enabled=False):
        yield


def _with_outer_autocast(
    context: Callable[[], AbstractContextManager[Any]], device_type: str
) -> Callable[[], AbstractContextManager[Any]]:
    """Let forward passes run under the autocast that is in force where the estimate was called."""
    if not torch.is_autocast_enabled(device_type):
        return context
    dtype = torch.get_autocast_dtype(device_type)

    @contextlib.contextmanager
    def both() -> Iterator[None]:
        with torch.autocast(device_type, dtype), context():
            yield

    return both


def _check_size(loader: "DataLoader[Any]", shard: Shard) -> None:
    size = len(loader.dataset)  # type: ignore[arg-type]
    if size < shard.count:
        raise ValueError(f"a dataset of {size} samples cannot be shared by {shard.count} processes: use fewer")


def _others(plan: Plan) -> str:
    """Patterns for all layers that are read fast, shortened if there are many."""
    patterns = [f"{layer.name}.*" if len(layer.names) > 1 else layer.names[0] for layer in plan.factored]
    return str(patterns) if len(patterns) <= 6 else f"[{', '.join(map(repr, patterns[:6]))}, …]"


def _warn_of_loops(plan: Plan) -> None:
    names = [name for layer in plan.looped if layer in plan.kinds for name in layer.names]
    if names:
        some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        warnings.warn(
            f"{len(names)} parameter tensors are used in a way that has no fast per-sample gradient ({some}): they "
            f"take a backward pass for every sample, which is right but slow. Without them: layers={_others(plan)}",
            stacklevel=5,
        )
