"""Class-wise metrics in the loggers, from one validation epoch to the next."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed as dist

from lightning_pareto.display.terminal import listed
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.internals import logging_step, names_logged
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.integration.validation.metrics import (
    ClasswiseMetrics,
    EpochMetrics,
    Float,
    Metrics,
    chosen_metrics,
)

CHANGES_SHOWN = 20
"""Number of classes up to which the change of each is logged. With more classes, only the worst change is."""

OVER_CLASSES = ("macro", "worst", "change_worst")
"""What is logged of every metric over all classes."""

Values = Mapping[str, Mapping[str, float]]
"""For every metric, the value of every class that has one, by class name."""


class ClasswiseLog:
    """Logs the chosen metrics of every class at the end of each validation epoch.

    Args:
        data: where the samples come from and how they are read.
        metrics: names of metrics, or a mapping to names and torchmetrics.
        prefix: how all logged names begin.

    Raises:
        ValueError: for an unknown name, or a metric that does not return one number for each class.
        TypeError: for anything else.
    """

    def __init__(self, data: DataSource, metrics: Metrics, prefix: str = "val_") -> None:
        self.data = data
        self._chosen = chosen_metrics(metrics)
        self.prefix = prefix
        self._logged: Mapping[str, float] = {}  # in the current epoch
        self._before: Values = {}
        self._names: Sequence[str] = ()  # of the classes in the fit
        self._warned = False

    @property
    def state(self) -> dict[str, Any]:
        """The values of the last validation of the fit, for a checkpoint; empty if there was none."""
        return {metric: dict(values) for metric, values in self._before.items()}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self._before = state

    def begin_fit(self) -> None:
        """Forget the previous fit."""
        self._before, self._names, self._warned = {}, (), False

    def metrics(self, trainer: pl.Trainer) -> ClasswiseMetrics:
        """The metrics of a validation epoch that begins."""
        return ClasswiseMetrics(self._chosen, trainer.strategy.root_device)

    def log(self, trainer: pl.Trainer, module: pl.LightningModule, metrics: ClasswiseMetrics) -> None:
        """Log the metrics of an epoch at its end, and warn about classes without samples."""
        found = metrics.compute(trainer)
        self._logged = {f"{self.prefix}{metric}_{what}": np.nan for metric in self._chosen for what in OVER_CLASSES}
        if found is None or trainer.sanity_checking:
            return
        fitting, count = trainer.state.fn == "fit", len(found.support)
        known = not fitting and len(self._names) == count
        self._names = names = self._names if known else self.data.names_of_classes(trainer, count)
        self._warn_of_absent_classes(trainer, names, found.support)
        values = _by_class(found, names)
        before = self._before if fitting else {}
        single, overall = _single_classes(found, values, before, names), _over_classes(found, values, before)
        self._logged = {f"{self.prefix}{name}": value for name, value in (overall | single).items()}
        if fitting:
            _log_many(trainer, self._logged)
            self._before = values
        else:  # so that trainer.validate returns them
            module.log_dict(self._logged, sync_dist=dist.is_available() and dist.is_initialized())

    def check_names(self, trainer: pl.Trainer) -> None:
        """Refuse names that the module, or another callback, has logged in the same epoch, also in the sanity check.

        Raises:
            ValueError: if there are any. Lightning would log the mean of both values.
        """
        if trainer.state.fn == "fit":
            shared = names_logged(trainer) & set(self._logged)
        else:  # then all names are in one place, and the values of shared ones are mixed
            ours = {name: value for name, value in self._logged.items() if np.isfinite(value)}
            found = {name: float(trainer.callback_metrics[name]) for name in ours}
            shared = {name for name in ours if not np.isclose(found[name], ours[name])}
        if shared:
            raise ValueError(
                f"{listed(sorted(shared))} is logged by ParetoCallback and by the LightningModule or another callback. "
                f"Give the names of the callback another beginning: ParetoCallback(prefix='pareto_{self.prefix}')"
            )

    @staticmethod
    def check_prefixes(logs: "Sequence[ClasswiseLog]") -> None:
        """Raise a ValueError if two of a trainer's callbacks would log other samples under the same names."""
        for log in logs:
            for other in logs:
                ours, theirs = log.data.val_dataloader_idx, other.data.val_dataloader_idx
                if log.prefix == other.prefix and ours < theirs:
                    raise ValueError(
                        f"two callbacks would log the classes of the validation loaders {ours} and {theirs} under the "
                        f"same names. Give one of them a prefix: ParetoCallback(val_dataloader_idx={theirs}, "
                        f"prefix='{log.prefix}{theirs}_')"
                    )

    def _warn_of_absent_classes(self, trainer: pl.Trainer, names: Sequence[str], support: Float) -> None:
        """Warn once, and only if the epoch covered the whole validation set."""
        dataset = getattr(self.data.watched(trainer), "dataset", None)
        absent = [name for name, count in zip(names, support, strict=True) if count == 0]
        whole = isinstance(dataset, Sized) and support.sum() == len(dataset)
        if absent and whole and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"no validation samples of {listed(absent)}: no accuracy is logged for these classes, and nothing can "
                "be said about them after the fit. Add validation samples of these classes"
            )


def _by_class(found: EpochMetrics, names: Sequence[str]) -> Values:
    return {
        metric: {name: float(v) for name, v in zip(names, values, strict=True) if np.isfinite(v)}
        for metric, values in found.values.items()
    }


def _single_classes(found: EpochMetrics, values: Values, before: Values, names: Sequence[str]) -> dict[str, float]:
    """What to log about single classes, by name."""
    named = {f"support/{name}": float(n) for name, n in zip(names, found.support, strict=True)}
    for metric, by_class in values.items():
        named.update({f"{metric}/{name}": value for name, value in by_class.items()})
        if len(names) <= CHANGES_SHOWN:
            changes = _changes(by_class, before.get(metric, {}))
            named.update({f"{metric}_change/{name}": value for name, value in changes.items()})
    return named


def _over_classes(found: EpochMetrics, values: Values, before: Values) -> dict[str, float]:
    """Mean, worst value and worst change of every metric, by name."""
    named = {}
    for metric, by_class in values.items():
        worst = max if metric in found.lower_is_better else min
        changes = _changes(by_class, before.get(metric, {}))
        if by_class:
            named[f"{metric}_macro"] = sum(by_class.values()) / len(by_class)
            named[f"{metric}_worst"] = worst(by_class.values())
        if changes:
            named[f"{metric}_change_worst"] = worst(changes.values())
    return named


def _changes(values: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in values.items() if name in before}


def _log_many(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Log many values at once. ``LightningModule.log`` would take a quarter of a millisecond for each.

    The values are the same on all processes already.
    """
    kept = dict(zip(values, torch.tensor(list(values.values()), device=trainer.strategy.root_device), strict=True))
    trainer.callback_metrics.update(kept)
    trainer.logged_metrics.update(kept)
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=logging_step(trainer))
