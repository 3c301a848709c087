"""Figures of a verdict: the possible gain of each class, and the exchange rates between classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report.figures.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    axes_to_draw_in,
    font_and_step,
    height_of_rows,
    labels_of,
    legend_above,
    name_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERS = 12
"""Number of classes up to which each cell shows its rate as text."""

MOST_CLASSES = 24
"""Number of classes up to which classes without a price are shown too."""

RANGE = 20.0
"""Rates above this value, or below its inverse, share the last colour."""


def plot_headroom(verdict: ParetoVerdict, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw the relative gain of each class, in sample and held out, and its shadow price.

    Dots are held-out gains. Their error bars are one-sided bounds at the level of the test, on both sides. For a proof,
    all of them must clear zero, or the floor of a class that has one. Open diamonds are in-sample gains of the same
    weights. They are always too optimistic, and so is the dashed headroom. The bars on the right are the prices. They
    show which classes hold the others back.

    Args:
        verdict: the verdict.
        ax: axes to draw in. By default, a new figure. The prices are drawn to its right and add a fifth of its width.

    Returns:
        The figure and the axes of the gains.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    count = len(verdict.category_names)
    figure, ax = axes_to_draw_in(ax, height_of_rows(count))
    rows = np.arange(count)
    ax.axvline(0, color=GREY, linewidth=1)
    ax.axvline(verdict.headroom, color=ORANGE, linewidth=1.2, linestyle="--", label="headroom, in sample")
    ax.plot(verdict.together, rows, "D", color=ORANGE, fillstyle="none", markersize=5, label="gain, in sample")
    floors = np.flatnonzero(~verdict.targets & verdict.present)
    if len(floors):
        ax.plot(verdict.floors[floors], rows[floors], "|", color=GREY, markersize=12, label="floor")
    error = verdict.held_out_gain - np.where(np.isfinite(verdict.lower_bound), verdict.lower_bound, np.nan)
    if np.isfinite(verdict.held_out_gain).any():
        label = f"held out, {1 - 2 * verdict.level:.0%} interval"
        ax.errorbar(
            verdict.held_out_gain, rows, xerr=error, fmt="o", color=BLUE, markersize=5, elinewidth=1.4, label=label
        )
    name_rows(ax, verdict.category_names, ~verdict.present)
    ax.set_xlabel("relative gain, in units of mean absolute influence")
    legend_above(ax, columns=2)
    _draw_prices(ax, verdict, rows)
    return figure, ax


def _draw_prices(ax: Any, verdict: ParetoVerdict, rows: np.ndarray) -> None:
    panel = ax.inset_axes((1.04, 0, 0.2, 1), sharey=ax)
    panel.barh(rows, np.where(verdict.present, verdict.prices, np.nan), height=0.6, color=GREEN)
    panel.tick_params(axis="y", left=False, labelleft=False)
    highest = float(np.nanmax(verdict.prices))
    panel.set_xlim(0, 1.1 * highest)
    panel.set_xticks([highest], labels=[f"{highest:.2f}"])
    panel.set_xlabel("price λ")
    panel.spines[["top", "right"]].set_visible(False)


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
    from matplotlib.patches import Rectangle

    rates = verdict.exchange_rates[np.ix_(shown, shown)]
    rates[:, ~(verdict.prices[shown] > 0)] = np.nan
    hatched = Rectangle((-0.5, -0.5), count, count, fill=False, hatch="///", edgecolor=GREY, linewidth=0, alpha=0.4)
    ax.add_patch(hatched)
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
    font, step = font_and_step(0.85 * 72 * side / max(len(names), 1))
    places, labels = range(0, len(names), step), labels_of(names, 14)[::step]
    ax.set_xticks(places, labels=labels, rotation=90, fontsize=font)
    ax.set_yticks(places, labels=labels, fontsize=font)
    for ticks in (ax.get_xticklabels(), ax.get_yticklabels()):
        for tick, grey in zip(ticks, absent[::step], strict=True):
            if grey:
                tick.set(color=GREY, style="italic")
