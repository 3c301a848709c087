"""The figures of the report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report import figures
from lightning_pareto.report.figures.canvas import height_of_rows
from lightning_pareto.report.figures.verdict import trading_classes
from lightning_pareto.report.html.pictures import inline_svg
from lightning_pareto.report.html.run import Run


@dataclass(frozen=True)
class Chart:
    """A figure of the report.

    Attributes:
        svg: the ``<svg>`` element. It refers to nothing outside itself.
        caption: how to read it.
        tall: whether it is taller than a screen.
    """

    svg: str
    caption: str
    tall: bool = False


def charts(run: Run) -> dict[str, Chart]:
    """Every figure that the results allow, by name."""
    found = dict[str, Chart]()
    rows, tall = height_of_rows(len(run.category_names)), len(run.category_names) > 30
    verdict, influence, weights, result = run.verdict, run.influence, run.weights, run.result
    if verdict is not None:
        text = (
            "Dots: held-out gain of each class with its interval. A proof needs all of them above zero. Open diamonds "
            "and the dashed line: the gain in sample, which is always too good. Bars: shadow prices. Classes with a "
            "high price hold the others back."
        )
        found["headroom"] = _chart("headroom", lambda ax: figures.plot_headroom(verdict, ax), text, rows, tall)
        side = float(np.clip(2.2 + 0.28 * len(trading_classes(verdict)), 3.4, 6.5))
        text = (
            "Relative gain that the column's class loses at the margin for one more unit of the row's class. "
            "Hatched classes have gain to spare and lose nothing yet."
        )
        found["exchange_rates"] = _chart(
            "rates", lambda ax: figures.plot_exchange_rates(verdict, ax), text, side, width=max(side, 4.6)
        )
    if result is not None:
        text = "Validation accuracy of each class, with a 95 % interval for each model separately."
        found["accuracy"] = _chart("accuracy", lambda ax: figures.plot_accuracy(result, ax=ax), text, rows, tall)
        text = "Each trial of the search at its end. The highest is biased upwards, because trials were chosen by it."
        if result.trials:
            found["search"] = _chart("search", lambda ax: figures.plot_search(result, ax), text, 3.4)
    if influence is not None and verdict is not None and (pair := _strongest_trade_off(verdict)) is not None:
        text = (
            "Influence of each training sample on the two classes that trade off most. On the dashed line one class "
            "gains what the other loses. Samples in the lower left harm both."
        )
        found["influence"] = _chart("influence", lambda ax: figures.plot_influence(influence, *pair, ax=ax), text, 4.8)
    if influence is not None and weights is not None and len(weights) == len(influence.labels):
        names, count = run.class_names or None, int(influence.labels.max()) + 1
        text = "Share of each class whose weight falls (orange) or rises (blue)."
        found["weights"] = _chart(
            "weights",
            lambda ax: figures.plot_weights(weights, influence.labels, names, ax),
            text,
            height_of_rows(max(count, len(names or ()))),
            max(count, len(names or ())) > 30,
        )
    return found


def _chart(
    key: str, draw: Callable[[Any], Any], caption: str, height: float, tall: bool = False, width: float = 4.6
) -> Chart:
    return Chart(inline_svg(draw, key, caption, height, width), caption, tall)


def _strongest_trade_off(verdict: ParetoVerdict) -> tuple[str, str] | None:
    """The two classes whose influences have the lowest correlation. None with fewer than two classes."""
    opposed = np.where(np.eye(len(verdict.category_names), dtype=bool), np.nan, verdict.correlation)
    if np.isnan(opposed).all():
        return None
    a, b = np.unravel_index(np.nanargmin(opposed), opposed.shape)
    return verdict.category_names[a], verdict.category_names[b]
