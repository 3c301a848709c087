"""The exchange rates between classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report.figures.canvas import FONT, GREY, LEAST_FONT, axes_to_draw_in, labels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERS = 12
"""Number of classes up to which each cell shows its rate as text."""

MOST_CLASSES = 24
"""Number of classes up to which classes without a price are shown too."""

RANGE = 20.0
"""Rates above this value, or below its inverse, share the last colour."""


def plot_exchange_rates(verdict: ParetoVerdict, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw how much each class loses per additional unit of another class, at the margin.

    Row a, column b shows the relative gain that b loses per additional unit of a. Hatched columns are classes without a
    price: they have gain to spare and pay nothing yet. With more than 24 classes, only those with a price are shown.

    Args:
        verdict: the verdict.
        ax: axes to draw in. By default, a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    shown = trading_classes(verdict)
    count = len(shown)
    side = float(np.clip(2.5 + 0.42 * count, 4, 12))
    figure, ax = axes_to_draw_in(ax, side, side + 1)
    from matplotlib.colors import LogNorm

    rates = verdict.exchange_rates[np.ix_(shown, shown)]
    rates[:, ~(verdict.prices[shown] > 0)] = np.nan
    ax.add_patch(_hatched(count))
    image = ax.imshow(rates.clip(1 / RANGE, RANGE), cmap="cividis", norm=LogNorm(1 / RANGE, RANGE), zorder=2)
    if count <= MOST_NUMBERS:
        font = float(np.clip(72 * 0.5 * figure.get_figwidth() / count / 2.6, 4.5, 7))
        for a, b in np.argwhere(np.isfinite(rates)):
            colour = "white" if rates[a, b] < 1 else "black"
            ax.text(b, a, _number(rates[a, b]), ha="center", va="center", fontsize=font, color=colour, zorder=3)
    _name_both(figure, ax, [verdict.category_names[k] for k in shown], ~verdict.present[shown])
    omitted = len(verdict.category_names) - count
    note = f"{omitted} classes without a price omitted" if omitted else "hatched: nothing yet"
    ax.set_xlabel(f"… costs this class ({note})")
    ax.set_ylabel("one more unit for this class …")
    bar: Any = figure.colorbar(image, ax=ax, shrink=0.8, extend="both")
    bar.set_ticks([0.05, 0.2, 1, 5, 20], labels=["1/20", "1/5", "1", "5", "20"])
    bar.ax.minorticks_off()
    return figure, ax


def trading_classes(verdict: ParetoVerdict) -> npt.NDArray[np.int64]:
    """Indices of the classes to show: all, or only those with a price if there are many."""
    count = len(verdict.category_names)
    return np.flatnonzero(verdict.prices > 0) if count > MOST_CLASSES else np.arange(count)


def _number(rate: float) -> str:
    if rate >= 10:
        return f"{rate:.0f}" if rate < 999.5 else ">999"
    if rate >= 0.1:
        return f"{rate:.2g}"
    return "<.01" if 0 < rate < 0.01 else f"{rate:.1g}"


def _name_both(figure: Any, ax: "Axes", names: Sequence[str], absent: npt.NDArray[np.bool_]) -> None:
    """Label both axes, in grey for absent classes. If there are many, use a smaller font or skip names."""
    side = min(figure.get_figheight() * ax.get_position().height, 0.6 * figure.get_figwidth())
    points = 0.85 * 72 * side / max(len(names), 1)
    step = int(np.ceil(LEAST_FONT / points))
    font = float(np.clip(points * step, LEAST_FONT, FONT))
    places, labels = range(0, len(names), step), labels_of(names, 14)[::step]
    ax.set_xticks(places, labels=labels, rotation=90, fontsize=font)
    ax.set_yticks(places, labels=labels, fontsize=font)
    for ticks in (ax.get_xticklabels(), ax.get_yticklabels()):
        for tick, grey in zip(ticks, absent[::step], strict=True):
            if grey:
                tick.set(color=GREY, style="italic")


def _hatched(count: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((-0.5, -0.5), count, count, fill=False, hatch="///", edgecolor=GREY, linewidth=0, alpha=0.4)
