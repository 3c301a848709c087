"""The trials of a search and their cost."""

from typing import TYPE_CHECKING

import numpy as np

from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.report.figures.canvas import BLUE, GREY, ORANGE, axes_to_draw_in, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_search(result: ParetoResult, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw the mean and the worst class accuracy of each trial over the epochs spent so far.

    Filled markers are complete fits (the longest trials), open markers are short trials. The line is the best mean so
    far. The validation samples also chose among the trials, so the highest accuracy of many is too optimistic.

    Args:
        result: result of the search.
        ax: axes to draw in. By default, a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    figure, ax = axes_to_draw_in(ax, 4.2)
    epochs = np.array([trial.epochs for trial in result.trials], dtype=np.int64)
    spent = epochs.cumsum()
    complete = epochs == epochs.max(initial=0)
    curves = {
        "mean over the classes": ([trial.macro for trial in result.trials], BLUE, "o"),
        "worst class": ([trial.worst for trial in result.trials], ORANGE, "s"),
    }
    for name, (values, colour, marker) in curves.items():
        accuracy = 100 * np.array(values)
        faces = [colour if filled else "none" for filled in complete]
        ax.scatter(spent, accuracy, s=28, marker=marker, edgecolors=colour, facecolors=faces, label=name)
    best = np.fmax.accumulate(100 * np.array([trial.macro for trial in result.trials]))
    ax.step(spent, best, where="post", color=GREY, linewidth=1.2, label="best mean so far")
    ax.set_xlabel("epochs spent (filled: complete fits, open: short trials)")
    ax.set_ylabel("validation accuracy in %")
    ax.grid(axis="y", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    legend_above(ax)
    return figure, ax
