"""Figures of the training samples: their influence on two classes, and their weights in each class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightning_pareto.influence.matrix import InfluenceMatrix, check_type
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.report.figures.canvas import (
    BLUE,
    GREY,
    ORANGE,
    axes_to_draw_in,
    height_of_rows,
    labels_of,
    legend_above,
    name_rows,
)
from lightning_pareto.report.samples import column_of
from lightning_pareto.reweighting.weights import SampleWeights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 2000
"""Number of samples above which the dots are rasterised in vector files."""

EDGES = (0.5, 0.95, 1.05, 1.5)
NAMES = ("below 0.5", "0.5 to 0.95", "about 1", "1.05 to 1.5", "above 1.5")
SHADES = ("#D55E00", "#F0B27A", "#C8C8C8", "#7FB7D9", "#0072B2")


def plot_influence(
    influence: InfluenceMatrix, class_a: str, class_b: str, ax: "Axes | None" = None
) -> "tuple[Figure, Axes]":
    """Draw the influence of each training sample on two classes, and the line on which one class pays for the other.

    Samples in the upper right help both classes. Samples in the lower left harm both, which suggests wrong labels. If
    all samples are on the line, one class only gains what the other loses. Influence is in units of its mean absolute
    value on the class. The axes are linear up to 1 and logarithmic beyond, because the tails are long.

    Args:
        influence: the influence matrix.
        class_a: name of the class on the horizontal axis.
        class_b: name of the class on the vertical axis.
        ax: axes to draw in. By default, a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ValueError: if a name is not a category with validation samples, or if both names are the same.
        ImportError: if matplotlib is not installed.

    Source: arXiv:2510.03950, Figure 2.
    """
    check_type(influence)
    if class_a == class_b:
        raise ValueError(f"class_a and class_b must be different categories, found {class_a!r} twice")
    relative = influence.scores / influence.scale
    x, y = (relative[:, column_of(influence, name)] for name in (class_a, class_b))
    figure, ax = axes_to_draw_in(ax, 6.2, 6)
    good, bad = (x > 0) & (y > 0), (x < 0) & (y < 0)
    regions = {"trade-off": (~good & ~bad, GREY, "o"), "help both": (good, BLUE, "^"), "harm both": (bad, ORANGE, "s")}
    for name, (chosen, colour, marker) in regions.items():
        dots = {"s": 12, "color": colour, "marker": marker, "linewidths": 0, "rasterized": len(x) > MANY}
        ax.scatter(x[chosen], y[chosen], label=f"{name} ({chosen.mean():.0%})", alpha=0.6, **dots)  # type: ignore[arg-type]
    reach = 1.2 * max(float(np.abs(x).max()), float(np.abs(y).max()), 1.0)
    _cross(ax, reach)
    for axis, name in zip((ax.xaxis, ax.yaxis), labels_of([class_a, class_b], 30), strict=True):
        axis.set_label_text(f"influence on {name}")
    ax.spines[["top", "right"]].set_visible(False)
    legend_above(ax)
    return figure, ax


def _cross(ax: "Axes", reach: float) -> None:
    """Draw both axes through zero, linear up to 1 and logarithmic beyond, and the line y = −x."""
    ax.axline((-1, 1), (1, -1), color=GREY, linewidth=1.2, linestyle="--")
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.axvline(0, color=GREY, linewidth=0.6)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_yscale("symlog", linthresh=1)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


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


def _shares(values: Float, labels: npt.NDArray[np.int64], classes: int) -> Float:
    """Share of each class's samples in each range of weights, (K, 5). NaN for a class without samples."""
    counts = np.zeros((classes, len(NAMES)))
    np.add.at(counts, (labels, np.searchsorted(EDGES, values, side="right")), 1)
    total = counts.sum(axis=1, keepdims=True)
    shares: Float = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    return shares
