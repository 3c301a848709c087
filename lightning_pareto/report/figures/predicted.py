"""Predicted and measured gains of each class."""

from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from lightning_pareto.report.figures.canvas import BLUE, GREY, axes_to_draw_in, labels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PLACES: tuple[tuple[float, float], ...] = ((5, 3), (5, -9), (-5, 3), (-5, -9))


def plot_predicted(
    predicted: npt.ArrayLike,
    measured: npt.ArrayLike,
    category_names: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "tuple[Figure, Axes]":
    """Draw the measured gain of each class over the predicted gain.

    On the dashed line both agree. First-order predictions are far too large for a complete second fit, and often get
    the order of the classes wrong, too. The rank correlation above the figure says how well they do.

    Args:
        predicted: predicted gain of each class, (K,), for instance ``weights.predicted_gain``. NaN where unknown.
        measured: measured gain in the same units, (K,). This is the drop of the measure, positive if a class improved.
        category_names: K names. Numbers by default. Names that would cover others are not drawn.
        ax: axes to draw in. By default, a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ValueError: if the shapes disagree.
        ImportError: if matplotlib is not installed.
    """
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    names = list(map(str, range(len(x)) if category_names is None else category_names))
    if x.shape != (len(names),) or y.shape != x.shape:
        raise ValueError(
            f"predicted and measured must have shape ({len(names)},), one entry per class, found {x.shape} and "
            f"{y.shape}"
        )
    figure, ax = axes_to_draw_in(ax, 5.5, 6)
    known = np.isfinite(x) & np.isfinite(y)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.axvline(0, color=GREY, linewidth=0.6)
    ax.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle="--")
    ax.plot(x[known], y[known], "o", color=BLUE, markersize=5)
    ax.margins(0.12)
    ax.set_xlabel("predicted gain")
    ax.set_ylabel("measured gain")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(_summary(x[known], y[known], list(compress(names, ~known))), fontsize=8)
    labels, middle = labels_of(names), np.median(y[known]) if known.any() else 0.0
    farthest_first = sorted(np.flatnonzero(known), key=lambda k: -abs(y[k] - middle))
    _name_points(figure, ax, [(x[k], y[k], labels[k]) for k in farthest_first])
    return figure, ax


def _summary(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], absent: Sequence[str]) -> str:
    constant = len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0
    text = "" if constant else f"rank correlation {stats.spearmanr(x, y).statistic:.2f}"
    if not absent:
        return text
    more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
    return f"{text}{'; ' if text else ''}absent: {', '.join(labels_of(absent)[:3])}{more}"


def _name_points(figure: Any, ax: "Axes", points: Sequence[tuple[float, float, str]]) -> None:
    """Write names next to their dots where there is room. Earlier points take precedence."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    pixels, inside = figure.dpi / 72, ax.get_window_extent()
    dots = [ax.transData.transform(point[:2]) for point in points]
    taken = [Bbox([dot - 3 * pixels, dot + 3 * pixels]) for dot in dots]
    for (x, y, label), dot in zip(points, dots, strict=True):
        width = 4.6 * len(label) * pixels
        for right, up in _PLACES:
            left = dot[0] + right * pixels - (width if right < 0 else 0)
            box = Bbox.from_bounds(left, dot[1] + up * pixels, width, 8 * pixels)
            if inside.x0 <= box.x0 and box.x1 <= inside.x1 and not box.count_overlaps(taken):
                side: Any = "left" if right > 0 else "right"
                ax.annotate(label, (x, y), (right, up), textcoords="offset points", fontsize=7, ha=side)
                taken.append(box)
                break
