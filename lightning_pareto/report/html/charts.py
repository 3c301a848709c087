"""The figures of the report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report import figures
from lightning_pareto.report.figures.canvas import height_of_rows
from lightning_pareto.report.figures.exchange_rates import trading_classes
from lightning_pareto.report.html.pictures import inline_svg
from lightning_pareto.report.html.run import Run


@dataclass(frozen=True)
class Chart:
    """A figure of the report.

    Attributes:
        svg: the element, without references to anything outside it.
        caption: how to read it.
        tall: too tall for a screen.
    """

    svg: str
    caption: str
    tall: bool = False


def charts(run: Run) -> dict[str, Chart]:
    """Every figure that there are results for, by name."""
    found = dict[str, Chart]()
    rows, tall = height_of_rows(len(run.category_names)), len(run.category_names) > 30
    verdict, influence, weights, result = run.verdict, run.influence, run.weights, run.result
    if verdict is not None:
        text = (
            "Dots: held-out gain of each class with its interval; all have to clear zero for a proof. Open diamonds "
            "and the dashed line: the same in sample, always too good. Bars: prices, the classes that hold the "
            "others back."
        )
        found["headroom"] = _chart("headroom", lambda ax: figures.plot_headroom(verdict, ax), text, rows, tall)
        side = float(np.clip(2.2 + 0.28 * len(trading_classes(verdict)), 3.4, 6.5))
        text = (
            "Row and column: the relative gain that the class of the column loses for a unit more of the class of the "
            "row, at the margin. Hatched classes have gain to spare and pay nothing yet."
        )
        found["exchange_rates"] = _chart(
            "rates", lambda ax: figures.plot_exchange_rates(verdict, ax), text, side, width=max(side, 4.6)
        )
    if result is not None:
        text = "Validation accuracy of each class with 95 % intervals, of each model alone."
        found["accuracy"] = _chart("accuracy", lambda ax: figures.plot_accuracy(result, ax=ax), text, rows, tall)
        text = "Each trial of the search when it ended. The highest of many is too high: they were chosen by it."
        if result.trials:
            found["search"] = _chart("search", lambda ax: figures.plot_search(result, ax), text, 3.4)
    if influence is not None and verdict is not None and (pair := _strongest_trade_off(verdict)) is not None:
        text = (
            "Each dot is a training sample: its influence on the two classes that trade off most. On the dashed line "
            "what one gains the other loses; those in the lower left harm both."
        )
        found["influence"] = _chart("influence", lambda ax: figures.plot_influence(influence, *pair, ax=ax), text, 4.8)
    if influence is not None and weights is not None and len(weights) == len(influence.labels):
        names, count = run.class_names or None, int(influence.labels.max()) + 1
        text = "How much of each class the weights take away (orange), and how much more the rest of it counts (blue)."
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
    """The two classes whose influence is most opposed; None with fewer than two of them."""
    opposed = np.where(np.eye(len(verdict.category_names), dtype=bool), np.nan, verdict.correlation)
    if np.isnan(opposed).all():
        return None
    a, b = np.unravel_index(np.nanargmin(opposed), opposed.shape)
    return verdict.category_names[a], verdict.category_names[b]
