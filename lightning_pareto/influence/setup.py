"""Prepares a model and its two datasets for an influence estimate."""

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
from lightning_pareto.influence.verification import VERIFICATION_SAMPLES, plan_from_json, plan_to_json, verify

T = TypeVar("T")


@dataclass(frozen=True)
class Setup:
    """Passes over both datasets with one shared probe, and the covered parameters."""

    train: GradientPass
    validation: GradientPass
    selection: Selection

    @property
    def plan(self) -> Plan:
        """How to compute the per-sample gradients."""
        return self.train.probe.plan


def restart_on_new_plan(work: Callable[[], T]) -> T:
    """Do the work, starting over whenever the plan for a layer turns out to be wrong."""
    while True:
        try:
            return work()
        except PlanChangedError:  # the layer is looped over from now on, so earlier results do not fit
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
    """Check the loaders, put the module into evaluation mode, and compare its layers' gradients with autograd."""
    shard, limit = execution.shard, execution.max_memory
    _check_size(check_map_style(train_dataloader, "train_dataloader"), shard)
    _check_size(check_map_style(val_dataloader, "val_dataloader"), shard)
    selection = select_layers(module, layers)
    memory = Memory() if limit is None else Memory(max(1, min(Memory().elements, int(limit * 2**25))))
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
            few = train.sample(VERIFICATION_SAMPLES, seed=0)
            classes = check_samples(few, VERIFICATION_SAMPLES)
            check_labels(train, classes)
            verify(probe, few.first(VERIFICATION_SAMPLES))
        probe.plan = plan_from_json(shard.from_first(plan_to_json(probe.plan)), selection.layers)
        _warn_about_loops(probe.plan)
        yield Setup(train, validation, selection)


@contextlib.contextmanager
def _differentiable(device_type: str) -> Iterator[None]:
    """Enable gradients even if the caller disabled them, and disable autocast for computations on gradients."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device_type, enabled=False):
        yield


def _with_outer_autocast(
    context: Callable[[], AbstractContextManager[Any]], device_type: str
) -> Callable[[], AbstractContextManager[Any]]:
    """Run forward passes under the caller's autocast, if there is one."""
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
        raise ValueError(f"{shard.count} processes cannot share a dataset of {size} samples: use fewer processes")


def _fast_patterns(plan: Plan) -> str:
    """Patterns of all layers with fast per-sample gradients, shortened if there are many."""
    patterns = [f"{layer.name}.*" if len(layer.names) > 1 else layer.names[0] for layer in plan.factored]
    return str(patterns) if len(patterns) <= 6 else f"[{', '.join(map(repr, patterns[:6]))}, …]"


def _warn_about_loops(plan: Plan) -> None:
    names = [name for layer in plan.looped if layer in plan.methods for name in layer.names]
    if names:
        some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        warnings.warn(
            f"{len(names)} parameter tensors are used in a way that has no fast per-sample gradient ({some}). "
            "They take a backward pass per sample, which is exact but slow. To leave them out: "
            f"layers={_fast_patterns(plan)}",
            stacklevel=5,
        )
