"""Influence of the training samples on two classes, as in the paper's figure."""

from typing import TYPE_CHECKING

import numpy as np

from lightning_pareto.influence.matrix import InfluenceMatrix, check_type
from lightning_pareto.report.figures.canvas import BLUE, GREY, ORANGE, axes_to_draw_in, labels_of, legend_above
from lightning_pareto.report.samples import column_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 2000
"""Number of samples above which the dots are rasterised in vector files."""


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
