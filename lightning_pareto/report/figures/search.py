"""What a search tried, and what it cost."""

from typing import TYPE_CHECKING

import numpy as np

from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.report.figures.canvas import BLUE, GREY, ORANGE, axes_to_draw_in, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_search(result: ParetoResult, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw the mean and the worst accuracy of every trial over the epochs spent until its end.

    Filled markers are whole fits (the longest trials), open ones short trials. The line is the best mean so far.
    These are validation accuracies that have chosen among the trials: the highest of many is too high.

    Args:
        result: what the search came to.
        ax: where to draw; a new figure by default.

    Returns:
        The figure and the axes.

    Raises:
        ImportError: without matplotlib.
    """
    figure, ax = axes_to_draw_in(ax, 4.2)
    epochs = np.array([trial.epochs for trial in result.trials], dtype=np.int64)
    spent = epochs.cumsum()
    whole = epochs == epochs.max(initial=0)
    curves = {
        "mean over the classes": ([trial.macro for trial in result.trials], BLUE, "o"),
        "worst class": ([trial.worst for trial in result.trials], ORANGE, "s"),
    }
    for name, (values, colour, marker) in curves.items():
        accuracy = 100 * np.array(values)
        faces = [colour if full else "none" for full in whole]
        ax.scatter(spent, accuracy, s=28, marker=marker, edgecolors=colour, facecolors=faces, label=name)
    best = np.fmax.accumulate(100 * np.array([trial.macro for trial in result.trials]))
    ax.step(spent, best, where="post", color=GREY, linewidth=1.2, label="best mean so far")
    ax.set_xlabel("epochs spent (filled: whole fits; open: short trials)")
    ax.set_ylabel("validation accuracy in %")
    ax.grid(axis="y", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    legend_above(ax)
    return figure, ax
