"""Class-wise metrics: those that follow from three counts of every class, and the user's own."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

Float = npt.NDArray[np.float64]

MetricName = Literal["accuracy", "precision", "recall", "f1"]

Metrics = Sequence[str] | Mapping[str, Metric | str]
"""Names of metrics, or a mapping of what each is to be called to its name or a torchmetrics ``Metric``."""

_KNOWN = get_args(MetricName)


@dataclass(frozen=True, eq=False)
class Counts:
    """Samples of every class, over all batches and processes, (C,) each.

    Attributes:
        hits: predicted as the class and of it.
        predicted: predicted as the class.
        support: of the class.
    """

    hits: Float
    predicted: Float
    support: Float

    def metric(self, name: str) -> Float:
        """A metric by name, (C,); of a class that is never predicted the precision is 0, without samples all are 0."""
        over = {"precision": self.predicted, "f1": (self.predicted + self.support) / 2}.get(name, self.support)
        values: Float = np.divide(self.hits, over, out=np.zeros_like(self.hits), where=over > 0)
        return values


def chosen_metrics(metrics: Any) -> dict[str, str | Metric]:
    """Read the option: what each metric is called and what it is.

    Raises:
        ValueError: for an unknown name, or a metric that does not return one number for each class.
        TypeError: for anything else.
    """
    if isinstance(metrics, str) or not isinstance(metrics, (Mapping, Sequence)):
        raise TypeError(f"metrics must be a list of names or a mapping, found {metrics!r}: metrics=['accuracy', 'f1']")
    chosen = dict(metrics) if isinstance(metrics, Mapping) else {name: name for name in metrics}
    for name, metric in chosen.items():
        if not isinstance(name, str) or not name or name == "support":
            raise ValueError(f"{name!r} cannot be the name of a metric; 'support' is logged anyway")
        if isinstance(metric, Metric):
            _check_metric(name, metric)
        elif metric not in _KNOWN:
            raise ValueError(
                f"unknown metric {metric!r}. By name there are {', '.join(_KNOWN)}; any other is given as a "
                "torchmetrics Metric, metrics={'accuracy': 'accuracy', "
                "'specificity': MulticlassSpecificity(num_classes=4, average=None)}"
            )
    return chosen


def check_classes(name: str, metric: Metric, count: int) -> None:
    """Try a user's metric on a few made-up samples.

    Raises:
        ValueError: if it does not take logits (B, C) and labels (B,) of ``count`` classes, or does not return one
            number for each.
    """
    made_for = getattr(metric, "num_classes", count)
    if made_for != count:
        raise ValueError(
            f"metrics[{name!r}] is for {made_for} classes, the model has {count} logits: "
            f"{type(metric).__name__}(num_classes={count}, average=None)"
        )
    logits = torch.randn(2 * count, count, generator=torch.Generator().manual_seed(0)).to(metric.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = metric.clone()(logits, torch.arange(2 * count, device=metric.device) % count)
    except Exception as error:  # whatever a user's metric may raise
        raise ValueError(
            f"metrics[{name!r}], a {type(metric).__name__}, does not take logits (B, {count}) and labels (B,): {error}."
            f" Use one like MulticlassSpecificity(num_classes={count}, average=None)"
        ) from error
    if not isinstance(found, Tensor) or tuple(found.shape) != (count,):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"metrics[{name!r}] returns {shape} for {count} classes, expected ({count},): one number for each class, "
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


def is_lower_better(metric: str | Metric) -> bool:
    """Whether the worst class is the one with the largest value."""
    return isinstance(metric, Metric) and metric.higher_is_better is False


def counted(logits: Tensor, targets: Tensor) -> Tensor:
    """Hits, predictions and samples of every class, (3, C) integers."""
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    return torch.stack(
        [torch.bincount(found, minlength=classes) for found in (targets[predicted == targets], predicted, targets)]
    )
