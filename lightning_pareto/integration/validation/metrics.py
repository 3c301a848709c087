"""Class-wise metrics of a validation epoch, counted by torchmetrics."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassStatScores

from lightning_pareto.display.terminal import listed
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.integration.validation.logits import Consumer
from lightning_pareto.integration.validation.outcomes import OutcomeRecorder

Float = npt.NDArray[np.float64]

MetricName = Literal["accuracy", "precision", "recall", "f1"]

Metrics = Sequence[str] | Mapping[str, Metric | str]
"""Names of metrics, or a mapping from the name to log to one of these names or a torchmetrics ``Metric``."""

_KNOWN = get_args(MetricName)
_RESERVED = ("support", "category_accuracy", "category_support")


@dataclass(frozen=True, eq=False)
class EpochMetrics:
    """Metrics of one validation epoch over all processes, the same on each.

    Attributes:
        values: values of every metric, (C,); NaN where a class has none, or is the metric's ``ignore_index``.
        support: samples of every class, (C,).
        lower_is_better: names of the metrics whose worst class has the largest value.
    """

    values: Mapping[str, Float]
    support: Float
    lower_is_better: frozenset[str] = frozenset()


class ClasswiseMetrics(Consumer):
    """Computes metrics of every class over one validation epoch.

    Args:
        chosen: what :func:`chosen_metrics` returned. The user's own metrics are copied.
        device: device of the logits.
        outcomes: records which samples are right, too, where accuracy by category is asked for.
    """

    def __init__(
        self, chosen: Mapping[str, str | Metric], device: torch.device, outcomes: OutcomeRecorder | None = None
    ) -> None:
        self.outcomes = outcomes
        self._chosen = chosen
        self._device = device
        self._counts: MulticlassStatScores | None = None
        self._seen = 0
        self._own = {name: m.clone().to(device) for name, m in chosen.items() if isinstance(m, Metric)}
        self._keeping = frozenset(  # these keep samples rather than sums over samples
            name for name, metric in self._own.items() if any(isinstance(x, list) for x in metric.metric_state.values())
        )

    def update(self, batch: Any, logits: Tensor, targets: Tensor, count: int) -> None:
        """See :class:`Consumer`.

        Raises:
            ValueError: in the first batch, if one of the user's metrics is not for this many classes.
        """
        if self._counts is None:
            for name, metric in self._own.items():
                check_classes(name, metric, logits.shape[1])
            self._counts = self._counter(logits.shape[1])
        if count:
            self._seen += count
            self._counts.update(logits[:count], targets[:count])
            if self.outcomes is not None:
                self.outcomes.update(batch, logits, targets, count)
            for metric in self._own.values():
                metric.update(logits[:count], targets[:count])

    def compute(self, trainer: pl.Trainer) -> EpochMetrics | None:
        """The metrics over all processes; None if there was no sample.

        A collective operation, also for a process that has seen no batch.
        """
        mine = 0 if self._counts is None else self._counts.num_classes
        classes = int(trainer.strategy.reduce(torch.tensor(mine, device=self._device), reduce_op="max"))
        if classes == 0:
            return None
        counts = _computed(self._counts or self._counter(classes))  # (C, 5)
        support, values = counts[:, -1], {}
        for name, metric in self._chosen.items():
            found = self._own_metric(trainer, name) if isinstance(metric, Metric) else _rate(metric, counts)
            counted = (support > 0) & (np.arange(classes) != getattr(metric, "ignore_index", None))
            values[name] = np.where(counted, found, np.nan)
        return EpochMetrics(values, support, frozenset(filter(self._is_lower_better, self._chosen)))

    def _counter(self, classes: int) -> MulticlassStatScores:
        return MulticlassStatScores(classes, average=None, validate_args=False).to(self._device)

    def _own_metric(self, trainer: pl.Trainer, name: str) -> Float | float:
        """One of the user's metrics over all processes."""
        seen = torch.tensor(self._seen, device=self._device)
        if name in self._keeping and int(trainer.strategy.reduce(seen, reduce_op="min")) == 0:
            rank_zero_warn(
                f"metrics[{name!r}] is not available in this epoch: one of the processes has no validation sample"
            )
            return np.nan
        return _computed(self._own[name])

    def _is_lower_better(self, name: str) -> bool:
        metric = self._chosen[name]
        return isinstance(metric, Metric) and metric.higher_is_better is False


def _computed(metric: Metric) -> Float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        found: Float = metric.compute().cpu().double().numpy()
    return found


def _rate(name: str, counts: Float) -> Float:
    """A metric by name, (C,). The accuracy of a class is its recall. The rate of nothing is 0.

    Args:
        name: one of the known names.
        counts: true positives, false positives, true negatives, false negatives and support of each class, (C, 5).
    """
    hits, false_positives, _, _, support = counts.T
    predicted = hits + false_positives
    over = {"precision": predicted, "f1": (predicted + support) / 2}.get(name, support)
    rate: Float = np.divide(hits, over, out=np.zeros_like(hits), where=over > 0)
    return rate


def chosen_metrics(metrics: Any) -> dict[str, str | Metric]:
    """Read the option ``metrics``: a name or a torchmetrics ``Metric`` for each name to log.

    Raises:
        ValueError: for an unknown name, or a metric that does not return one number for each class.
        TypeError: for anything else.
    """
    if isinstance(metrics, str) or not isinstance(metrics, (Mapping, Sequence)):
        raise TypeError(f"metrics must be a list of names or a mapping, found {metrics!r}: metrics=['accuracy', 'f1']")
    chosen = dict(metrics) if isinstance(metrics, Mapping) else {name: name for name in metrics}
    for name, metric in chosen.items():
        if not isinstance(name, str) or not name or name in _RESERVED:
            raise ValueError(f"{name!r} cannot be the name of a metric; {listed(_RESERVED)} have their own meaning")
        if isinstance(metric, Metric):
            _check_metric(name, metric)
        elif metric not in _KNOWN:
            raise ValueError(
                f"unknown metric {metric!r}. The known names are {', '.join(_KNOWN)}. Pass any other as a torchmetrics "
                "Metric: metrics={'accuracy': 'accuracy', "
                "'specificity': MulticlassSpecificity(num_classes=4, average=None)}"
            )
    return chosen


def check_classes(name: str, metric: Metric, count: int) -> None:
    """Try one of the user's metrics on a few made-up samples.

    Raises:
        ValueError: if it does not take logits (B, C) and labels (B,) of ``count`` classes, or does not return one
            number for each.
    """
    made_for = getattr(metric, "num_classes", count)
    if made_for != count:
        raise ValueError(
            f"metrics[{name!r}] is for {made_for} classes, but the model has {count} logits: "
            f"{type(metric).__name__}(num_classes={count}, average=None)"
        )
    logits = torch.randn(2 * count, count, generator=torch.Generator().manual_seed(0)).to(metric.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = metric.clone()(logits, torch.arange(2 * count, device=metric.device) % count)
    except Exception as error:  # a user's metric may raise anything
        raise ValueError(
            f"metrics[{name!r}], a {type(metric).__name__}, does not take logits (B, {count}) and labels (B,): {error}."
            f" Use one like MulticlassSpecificity(num_classes={count}, average=None)"
        ) from error
    if not isinstance(found, Tensor) or tuple(found.shape) != (count,):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"metrics[{name!r}] must return one number for each of {count} classes, shape ({count},), found {shape}: "
            f"{type(metric).__name__}(num_classes={count}, average=None)"
        )


def _check_metric(name: str, metric: Metric) -> None:
    average = getattr(metric, "average", None)
    classes = getattr(metric, "num_classes", None)
    if average not in (None, "none"):
        raise ValueError(
            f"metrics[{name!r}] has average={average!r}, one number for all classes: "
            f"{type(metric).__name__}(num_classes={classes or '…'}, average=None)"
        )
    if isinstance(classes, int):
        check_classes(name, metric, classes)
