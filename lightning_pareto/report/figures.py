"""Figures from result objects, in the way of torchmetrics: they take an axes and return figure and axes."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_pareto.report.comparison import ClasswiseComparison, standard_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito, colour-blind safe
MARKERS = ("o", "s", "D", "^", "v", "P")


def plot_comparison(comparison: ClasswiseComparison, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw the accuracy of every arm on every class, mean and standard error over seeds.

    Args:
        comparison: the arms.
        ax: where to draw; a new figure by default.

    Returns:
        The figure and the axes.

    Raises:
        ImportError: without matplotlib.
    """
    figure, ax = _axes(ax, height=1.2 + 0.38 * len(comparison.class_names))
    rows = np.arange(len(comparison.class_names))
    spread = np.linspace(-0.22, 0.22, len(comparison.accuracy))
    for arm, offset, colour, marker in zip(comparison.accuracy, spread, COLOURS, MARKERS, strict=False):
        values = 100 * comparison.accuracy[arm]
        ax.errorbar(
            values.mean(axis=0),
            rows + offset,
            xerr=np.nan_to_num(standard_error(values)),
            fmt=marker,
            color=colour,
            markersize=5,
            elinewidth=1.2,
            label=f"{arm} (mean {values.mean():.1f} %)",
        )
    ax.set_yticks(rows, labels=list(comparison.class_names))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel("test accuracy in %, mean ± standard error over seeds")
    ax.grid(axis="y", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(comparison.accuracy), frameon=False, fontsize=8)
    return figure, ax


def _axes(ax: "Axes | None", height: float) -> "tuple[Figure, Axes]":
    if ax is not None:
        return ax.get_figure(root=True), ax  # type: ignore[return-value]
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'lightning_pareto[report]'") from error
    figure: Any = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
