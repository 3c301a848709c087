"""The distribution of weights in each class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightning_pareto.report.figures.canvas import axes_to_draw_in, height_of_rows, legend_above, name_rows
from lightning_pareto.reweighting.weights import SampleWeights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGES = (0.0, 0.5, 0.95, 1.05, 1.5, np.inf)
NAMES = ("below 0.5", "0.5 to 0.95", "about 1", "1.05 to 1.5", "above 1.5")
SHADES = ("#D55E00", "#F0B27A", "#C8C8C8", "#7FB7D9", "#0072B2")


def plot_weights(
    weights: SampleWeights,
    labels: npt.ArrayLike,
    class_names: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "tuple[Figure, Axes]":
    """Draw the share of each class's training samples in each range of weights.

    Mass-preserving weights give the mass taken from some samples of a class to the other samples of that class.

    Args:
        weights: weights of N samples.
        labels: training labels, integers (N,).
        class_names: names of the classes. By default those of the weights, or numbers if these are too few.
        ax: axes to draw in. By default, a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ValueError: if the numbers of labels and weights differ.
        ImportError: if matplotlib is not installed.
    """
    given = np.asarray(labels)
    if given.shape != (len(weights),):
        raise ValueError(f"labels must have shape ({len(weights)},), one label per weight, found {given.shape}")
    names = list(weights.category_names if class_names is None else class_names)
    if len(names) <= int(given.max()):
        names = list(map(str, range(int(given.max()) + 1)))
    shares = _shares(weights.values, given, len(names))
    figure, ax = axes_to_draw_in(ax, height_of_rows(len(names)))
    left = np.zeros(len(names))
    for name, share, shade in zip(NAMES, 100 * shares.T, SHADES, strict=True):
        ax.barh(np.arange(len(names)), share, left=left, height=0.75, color=shade, label=name)
        left = left + share
    name_rows(ax, names, np.bincount(given, minlength=len(names)) == 0, absent_text="no training samples")
    ax.set_xlim(0, 100)
    ax.set_xlabel("training samples of the class by weight, in %")
    ax.grid(visible=False)
    legend_above(ax, columns=3)
    return figure, ax


def _shares(values: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float64]:
    """Share of each class's samples in each range of weights, (K, 5). NaN for a class without samples."""
    ranges = np.searchsorted(EDGES[1:-1], values, side="right")
    counts = np.zeros((classes, len(NAMES)))
    np.add.at(counts, (labels, ranges), 1)
    total = counts.sum(axis=1, keepdims=True)
    shares: npt.NDArray[np.float64] = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    return shares
