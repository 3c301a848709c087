"""Accuracy of several training methods, class by class."""

from typing import TYPE_CHECKING

import numpy as np

from lightning_pareto.evaluation.comparison import ClasswiseComparison, standard_error
from lightning_pareto.report.figures.canvas import (
    COLOURS,
    MARKERS,
    axes_to_draw_in,
    height_of_rows,
    legend_above,
    name_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_comparison(comparison: ClasswiseComparison, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw the accuracy of each arm on each class, as mean and standard error over seeds.

    Args:
        comparison: accuracies of the arms.
        ax: axes to draw in. By default, a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    figure, ax = axes_to_draw_in(ax, height_of_rows(len(comparison.class_names)))
    rows = np.arange(len(comparison.class_names))
    spread = np.linspace(-0.22, 0.22, len(comparison.accuracy))
    for number, (arm, offset) in enumerate(zip(comparison.accuracy, spread, strict=True)):
        values = 100 * comparison.accuracy[arm]
        ax.errorbar(
            values.mean(axis=0),
            rows + offset,
            xerr=np.nan_to_num(standard_error(values)),
            fmt=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],  # all arms look different
            color=COLOURS[number % len(COLOURS)],
            markersize=5,
            elinewidth=1.2,
            label=f"{arm} (mean {np.nanmean(values):.1f} %)",
        )
    name_rows(ax, comparison.class_names, np.isnan(np.concatenate([*comparison.accuracy.values()])).all(axis=0))
    ax.set_xlabel("test accuracy in %, mean ± standard error over seeds")
    legend_above(ax)
    return figure, ax
