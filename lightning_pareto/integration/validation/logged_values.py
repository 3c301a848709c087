"""What to log about a validation epoch, by name."""

from collections.abc import Mapping, Sequence

import numpy as np

from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.integration.validation.metrics import EpochMetrics

CHANGES_SHOWN = 20
"""Number of classes up to which the change of each is logged. With more classes, only the worst change is."""

OVER_CLASSES = ("macro", "worst", "change_worst")
"""What is logged of every metric over all classes."""

OVER_CATEGORIES = ("category_accuracy_macro", "category_accuracy_worst")
"""What is logged over all categories."""

Values = Mapping[str, Mapping[str, float]]
"""For every metric, the value of every class that has one, by class name."""


def values_by_class(found: EpochMetrics, names: Sequence[str]) -> Values:
    """The metrics of an epoch by class name, without missing values."""
    return {
        metric: {name: float(v) for name, v in zip(names, values, strict=True) if np.isfinite(v)}
        for metric, values in found.values.items()
    }


def logged_values(found: EpochMetrics, names: Sequence[str], before: Values) -> dict[str, float]:
    """What to log about the classes, by name.

    Args:
        found: metrics of the epoch.
        names: names of the C classes.
        before: values of the previous validation. Changes are logged of the classes that have one.
    """
    values = values_by_class(found, names)
    return _over_classes(found, values, before) | _single_classes(found, values, before, names)


def category_values(outcome: Outcome) -> dict[str, float]:
    """What to log about the user's categories, by name. The accuracy of a category is its share of correct samples."""
    found = EpochMetrics({"accuracy": outcome.accuracy}, outcome.support.astype(float))
    return {f"category_{name}": value for name, value in logged_values(found, outcome.category_names, {}).items()}


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
