"""The possible gain of each class, and the classes that hold the others back."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report.figures.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    axes_to_draw_in,
    height_of_rows,
    legend_above,
    name_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    _prices(ax, verdict, rows)
    return figure, ax


def _prices(ax: Any, verdict: ParetoVerdict, rows: np.ndarray) -> None:
    panel = ax.inset_axes((1.04, 0, 0.2, 1), sharey=ax)
    panel.barh(rows, np.where(verdict.present, verdict.prices, np.nan), height=0.6, color=GREEN)
    panel.tick_params(axis="y", left=False, labelleft=False)
    highest = float(np.nanmax(verdict.prices))
    panel.set_xlim(0, 1.1 * highest)
    panel.set_xticks([highest], labels=[f"{highest:.2f}"])
    panel.set_xlabel("price λ")
    panel.spines[["top", "right"]].set_visible(False)
