"""A copy of everything that training changes, to restore it later."""

import copy
import random
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_pareto.integration.callback import ParetoCallback


class TrainingState:
    """A copy of everything that training has changed, in host memory.

    It holds weights and buffers (persistent or not), states of metrics, optimizers, learning rate schedulers, precision
    plugin, random states, the states of the other callbacks and modules that they hold (such as averaged weights), and
    the logged metrics. Each process keeps its own copy, about the size of a checkpoint. It lacks attributes of the
    user's module or callbacks that are not in their ``state_dict``.

    Args:
        trainer: the trainer of the fit.
        besides: a callback whose state is not part of it.
    """

    def __init__(self, trainer: pl.Trainer, besides: pl.Callback) -> None:
        module = trainer.lightning_module
        others = [callback for callback in _callbacks(trainer) if callback is not besides]
        self.module = ModuleState(module)
        self.metrics = {name: copied(_metric_state(metric)) for name, metric in _metrics(module).items()}
        self.optimizers = [copied(optimizer.state_dict()) for optimizer in trainer.optimizers]
        self.schedulers = [copied(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]
        self.precision = copied(trainer.precision_plugin.state_dict())
        self.callbacks = {callback: copied(_state_of(callback)) for callback in others}
        self.averages = {
            (callback.state_key, name): ModuleState(value)
            for callback in others
            for name, value in _modules_of(callback, module).items()
        }
        self.logged = [dict(values) for values in _logged(trainer)]
        self.random = _random_states()

    def restore(self, trainer: pl.Trainer) -> None:
        """Restore the state. Do so only once: tensors of the copy may become those of the optimizers."""
        module = trainer.lightning_module
        self.module.restore(module)
        for name, metric in _metrics(module).items():
            if name in self.metrics:
                _load_metric(metric, self.metrics[name])
        for optimizer, state in zip(trainer.optimizers, self.optimizers, strict=True):
            optimizer.load_state_dict(state)
        for config, state in zip(trainer.lr_scheduler_configs, self.schedulers, strict=True):
            config.scheduler.load_state_dict(state)
        if self.precision:
            trainer.precision_plugin.load_state_dict(self.precision)
        self._restore_callbacks(trainer)
        for values, logged in zip(_logged(trainer), self.logged, strict=True):
            values.clear()
            values.update(logged)
        _set_random_states(self.random)

    def _restore_callbacks(self, trainer: pl.Trainer) -> None:
        for callback in _callbacks(trainer):
            if isinstance(callback, ParetoCallback):
                callback.classwise.state = self.callbacks.get(callback, {})
            elif self.callbacks.get(callback):
                callback.load_state_dict(self.callbacks[callback])
            for name, held in _modules_of(callback, trainer.lightning_module).items():
                if (callback.state_key, name) in self.averages:
                    self.averages[callback.state_key, name].restore(held)


class ModuleState:
    """A copy of a module's state dict and of the buffers that are not in it."""

    def __init__(self, module: nn.Module) -> None:
        state = module.state_dict()
        self.state = copied(state)
        self.buffers = copied({name: value for name, value in module.named_buffers() if name not in state})

    def restore(self, module: nn.Module) -> None:
        """Restore the state. What the module leaves out of its ``state_dict``, such as frozen parameters, stays."""
        module.load_state_dict(self.state, strict=False)
        for name, value in self.buffers.items():
            module.get_buffer(name).copy_(value)


def copied(value: Any) -> Any:
    """A copy of nested containers, with tensors in host memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(copied(item) for item in value)
    return copy.deepcopy(value)


def _state_of(callback: pl.Callback) -> dict[str, Any]:
    return callback.classwise.state if isinstance(callback, ParetoCallback) else callback.state_dict()


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _modules_of(callback: pl.Callback, module: nn.Module) -> dict[str, nn.Module]:
    """Modules that a callback holds, other than the trained one."""
    return {n: v for n, v in vars(callback).items() if isinstance(v, nn.Module) and v is not module}


def _metrics(module: nn.Module) -> dict[str, Metric]:
    return {name: part for name, part in module.named_modules() if isinstance(part, Metric)}


def _metric_state(metric: Metric) -> dict[str, Any]:
    return {**metric.metric_state, "_update_count": metric.update_count, "_computed": None}


def _load_metric(metric: Metric, state: dict[str, Any]) -> None:
    for name, value in state.items():
        setattr(metric, name, move_data_to_device(value, metric.device))


def _logged(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """The trainer's own dicts of logged metrics."""
    return [trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics]


def _random_states() -> tuple[Any, ...]:
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), on_devices, np.random.get_state(), random.getstate()


def _set_random_states(states: tuple[Any, ...]) -> None:
    on_host, on_devices, of_numpy, of_python = states
    torch.set_rng_state(on_host)
    if on_devices:
        torch.cuda.set_rng_state_all(on_devices)
    np.random.set_state(of_numpy)
    random.setstate(of_python)
