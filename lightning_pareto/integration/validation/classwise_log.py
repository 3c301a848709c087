"""Class-wise metrics in the loggers, from one validation epoch to the next."""

from collections.abc import Mapping, Sequence, Sized
from itertools import combinations
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed as dist

from lightning_pareto.display.terminal import listed
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.internals import logging_step, names_logged
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.integration.validation.logged_values import (
    OVER_CATEGORIES,
    OVER_CLASSES,
    Values,
    category_values,
    logged_values,
    values_by_class,
)
from lightning_pareto.integration.validation.metrics import ClasswiseMetrics, Float, Metrics, chosen_metrics
from lightning_pareto.integration.validation.outcomes import OutcomeRecorder


class ClasswiseLog:
    """Logs the chosen metrics of every class, and accuracy by category, at the end of each validation epoch.

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
        outcomes = None if self.data.categories is None else OutcomeRecorder(self.data)
        return ClasswiseMetrics(self._chosen, trainer.strategy.root_device, outcomes)

    def log(self, trainer: pl.Trainer, module: pl.LightningModule, metrics: ClasswiseMetrics) -> None:
        """Log the metrics of an epoch at its end, and warn about classes without samples.

        Raises:
            ValueError: if names do not fit the classes or the categories.
        """
        found = metrics.compute(trainer)
        always = [f"{metric}_{what}" for metric in self._chosen for what in OVER_CLASSES]
        always += [] if metrics.outcomes is None else OVER_CATEGORIES
        self._logged = {f"{self.prefix}{name}": np.nan for name in always}
        if found is None or trainer.sanity_checking:
            return
        fitting, count = trainer.state.fn == "fit", len(found.support)
        known = not fitting and len(self._names) == count
        self._names = names = self._names if known else self.data.names_of_classes(trainer, count)
        self._warn_of_absent_classes(trainer, names, found.support)
        named = logged_values(found, names, self._before if fitting else {})
        if metrics.outcomes is not None:
            named |= category_values(metrics.outcomes.outcome(trainer, module))
        self._logged = {f"{self.prefix}{name}": value for name, value in named.items()}
        if fitting:
            _log_many(trainer, self._logged)
            self._before = values_by_class(found, names)
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
                f"{listed(sorted(shared), longest=60)} is logged by ParetoCallback and by the LightningModule or "
                "another callback. Give the names of the callback another beginning: "
                f"ParetoCallback(prefix='pareto_{self.prefix}')"
            )

    @staticmethod
    def check_prefixes(logs: "Sequence[ClasswiseLog]") -> None:
        """Raise a ValueError if two of a trainer's callbacks would log other samples under the same names."""
        for log, other in combinations(logs, 2):
            if log.prefix == other.prefix:
                ours, theirs = log.data.val_dataloader_idx, other.data.val_dataloader_idx
                if ours != theirs:
                    raise ValueError(
                        f"two callbacks would log the classes of the validation loaders {ours} and {theirs} under the "
                        f"same names. Give one of them a prefix: ParetoCallback(val_dataloader_idx={theirs}, "
                        f"prefix='{log.prefix}{theirs}_')"
                    )
                mine, others = log.data.categories, other.data.categories
                if mine is not None and others is not None and mine != others:
                    raise ValueError(
                        "two callbacks would log different categories under the same names. Give one of them a prefix: "
                        f"ParetoCallback(categories=…, prefix='{log.prefix}other_')"
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


def _log_many(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Log many values at once. ``LightningModule.log`` would take a quarter of a millisecond for each.

    The values are the same on all processes already.
    """
    kept = dict(zip(values, torch.tensor(list(values.values()), device=trainer.strategy.root_device), strict=True))
    trainer.callback_metrics.update(kept)
    trainer.logged_metrics.update(kept)
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=logging_step(trainer))
