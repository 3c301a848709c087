"""Class-wise metrics of one validation epoch, without asking anything of the LightningModule."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.validation.logits import Listener
from lightning_pareto.integration.validation.metrics import Counts, Float, check_classes, counted, is_lower_better

CHANGES_SHOWN = 20
"""Number of classes up to which the change of each is logged; of more, only the worst."""

Values = Mapping[str, Mapping[str, float]]
"""Of every metric the value of every class that has one, by name."""


@dataclass(frozen=True, eq=False)
class EpochMetrics:
    """What one validation epoch has found, over all processes and the same on each.

    Attributes:
        values: of every metric, (C,); NaN where a class has no value.
        support: samples of every class, (C,).
        lower_is_better: names of the metrics whose worst class is the one with the largest value.
    """

    values: Mapping[str, Float]
    support: Float
    lower_is_better: frozenset[str]

    def by_class(self, class_names: Sequence[str]) -> Values:
        """The values by name, without those that are not there."""
        return {
            metric: {name: float(v) for name, v in zip(class_names, values, strict=True) if np.isfinite(v)}
            for metric, values in self.values.items()
        }

    def of_classes(self, class_names: Sequence[str], before: Values) -> dict[str, float]:
        """Values of single classes to log, by name.

        Args:
            class_names: of all classes.
            before: the values of the validation before, as :meth:`by_class` gives them; empty if there was none.
        """
        named = {f"val_support/{name}": float(n) for name, n in zip(class_names, self.support, strict=True)}
        for metric, values in self.by_class(class_names).items():
            named.update({f"val_{metric}/{name}": value for name, value in values.items()})
            if len(class_names) <= CHANGES_SHOWN:
                changes = _changes(values, before.get(metric, {}))
                named.update({f"val_{metric}_change/{name}": value for name, value in changes.items()})
        return named

    def over_classes(self, class_names: Sequence[str], before: Values) -> dict[str, float]:
        """Mean and worst of every metric to log, by name; the arguments are those of :meth:`of_classes`."""
        named = {}
        for metric, values in self.by_class(class_names).items():
            worst = max if metric in self.lower_is_better else min
            changes = _changes(values, before.get(metric, {}))
            if values:
                named[f"val_{metric}_macro"] = sum(values.values()) / len(values)
                named[f"val_{metric}_worst"] = worst(values.values())
            if changes:
                named[f"val_{metric}_change_worst"] = worst(changes.values())
        return named


def _changes(values: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in values.items() if name in before}


class ClasswiseMetrics:
    """Collects the predictions of one validation epoch.

    Args:
        task: how to read a batch.
        chosen: what each metric is called, and its name or the user's own, of which a copy is used.
        device: of the logits.
        limit: number of samples to count, as those that follow are repeats; None for all.
    """

    def __init__(
        self,
        task: ClassificationTask,
        chosen: Mapping[str, str | Metric],
        device: torch.device,
        limit: int | None = None,
    ) -> None:
        self._listener = Listener(task)
        self._left = limit
        self._device = device
        self._chosen = chosen
        self._own = {name: m.clone().to(device) for name, m in chosen.items() if isinstance(m, Metric)}
        self._keeping = frozenset(  # the samples themselves, not sums over them
            name for name, metric in self._own.items() if any(isinstance(x, list) for x in metric.metric_state.values())
        )
        self._counts: Tensor | None = None  # (3, C)

    def listen(self, module: nn.Module, batch: Any) -> None:
        """Begin a batch.

        Raises:
            BatchError: if its labels cannot be read.
        """
        self._listener.listen(module, batch)

    def update(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """End a batch: count its predictions.

        Raises:
            BatchError: if the logits cannot be read.
            ValueError: in the first batch, if a metric of the user's is not for this many classes.
        """
        _, logits, targets = self._listener.heard(trainer, module)
        if self._counts is None:
            for name, metric in self._own.items():
                check_classes(name, metric, logits.shape[1])
        if self._left is not None:
            logits, targets = logits[: self._left], targets[: self._left]
            self._left -= len(targets)
        counts = counted(logits, targets)
        self._counts = counts if self._counts is None else self._counts + counts
        for metric in self._own.values():
            if len(targets):
                metric.update(logits, targets)

    def compute(self, trainer: pl.Trainer) -> EpochMetrics | None:
        """End the epoch: the metrics over all processes, if there was any sample.

        A collective operation, also for a process that has seen no batch.
        """
        mine = torch.tensor(0 if self._counts is None else self._counts.shape[1], device=self._device)
        classes = int(trainer.strategy.reduce(mine, reduce_op="max"))
        if classes == 0:
            return None
        sums = torch.zeros(3, classes, dtype=torch.int64, device=self._device)
        sums += 0 if self._counts is None else self._counts
        counts = Counts(*trainer.strategy.reduce(sums, reduce_op="sum").cpu().double().numpy())  # it adds up in place
        values = {}
        for name, metric in self._chosen.items():
            found = counts.metric(metric) if isinstance(metric, str) else self._computed(trainer, name)
            values[name] = np.where(counts.support > 0, found, np.nan)
        lower = frozenset(name for name, metric in self._chosen.items() if is_lower_better(metric))
        return EpochMetrics(values, counts.support, lower)

    def stop(self) -> None:
        """Stop listening and forget the batch."""
        self._listener.stop()

    def _seen(self) -> Tensor:
        """Number of samples counted by this process."""
        seen = 0 if self._counts is None else int(self._counts[2].sum())
        return torch.tensor(seen, device=self._device)

    def _computed(self, trainer: pl.Trainer, name: str) -> Float | float:
        """A metric over all processes, of which one may have seen no sample."""
        if name in self._keeping and int(trainer.strategy.reduce(self._seen(), reduce_op="min")) == 0:
            rank_zero_warn(
                f"metrics[{name!r}] cannot be had on several processes where one of them has no validation sample"
            )
            return np.nan
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            found: Float = self._own[name].compute().cpu().double().numpy()
        return found
