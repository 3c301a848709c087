"""Which classes the weights take samples from."""

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
NAMES = ("below 0.5", "to 0.95", "about 1", "to 1.5", "above")
SHADES = ("#D55E00", "#F0B27A", "#C8C8C8", "#7FB7D9", "#0072B2")


def plot_weights(
    weights: SampleWeights,
    labels: npt.ArrayLike,
    class_names: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "tuple[Figure, Axes]":
    """Draw, for every class, the share of its training samples in each range of weights.

    With weights that keep the mass of the classes, what is taken from some samples of a class lies on its others.

    Args:
        weights: of N samples.
        labels: the training labels, (N,) integers.
        class_names: names of the classes; those of the weights where there are as many as classes, else numbers.
        ax: where to draw; a new figure by default.

    Returns:
        The figure and the axes.

    Raises:
        ValueError: if there are not as many labels as weights.
        ImportError: without matplotlib.
    """
    given = np.asarray(labels)
    if given.shape != (len(weights),):
        raise ValueError(f"expected one label for each of the {len(weights)} weights, found shape {given.shape}")
    names = list(weights.category_names if class_names is None else class_names)
    if len(names) <= int(given.max()):
        names = list(map(str, range(int(given.max()) + 1)))
    shares = shares_of(weights.values, given, len(names))
    figure, ax = axes_to_draw_in(ax, height_of_rows(len(names)))
    left = np.zeros(len(names))
    for name, share, shade in zip(NAMES, 100 * shares.T, SHADES, strict=True):
        ax.barh(np.arange(len(names)), share, left=left, height=0.75, color=shade, label=name)
        left = left + share
    name_rows(ax, names, np.bincount(given, minlength=len(names)) == 0, absent_text="no training samples")
    ax.set_xlim(0, 100)
    ax.set_xlabel("training samples of the class in %, by their weight")
    ax.grid(visible=False)
    legend_above(ax, columns=3)
    return figure, ax


def shares_of(values: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float64]:
    """Share of every class's samples in each range of weights, (K, 5); NaN for a class without samples."""
    ranges = np.searchsorted(EDGES[1:-1], values, side="right")
    counts = np.zeros((classes, len(NAMES)))
    np.add.at(counts, (labels, ranges), 1)
    total = counts.sum(axis=1, keepdims=True)
    shares: npt.NDArray[np.float64] = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    return shares
