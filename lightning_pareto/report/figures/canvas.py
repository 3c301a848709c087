"""Shared parts of the figures: axes, colour-blind safe colours, and rows of named classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito
GREY, BLUE, ORANGE, GREEN = COLOURS[:4]
MARKERS = ("o", "s", "D", "^", "v", "P")

LONGEST_LABEL = 22
"""Largest number of characters of a class name in a figure."""

ABSENT = "no validation samples"

FONT, LEAST_FONT = 9.0, 4.5


def axes_to_draw_in(ax: "Axes | None", height: float, width: float = 8.0) -> "tuple[Figure, Axes]":
    """Return the figure and axes to draw in: those of ``ax``, or a new figure of this size in inches.

    Raises:
        ImportError: if matplotlib is not installed. The message contains the command that installs it.
    """
    if ax is not None:
        return ax.get_figure(root=True), ax  # type: ignore[return-value]
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'lightning_pareto[report]'") from error
    figure: Any = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def height_of_rows(count: int) -> float:
    """Height in inches of a figure with one row per class. Rows get narrower if there are many."""
    return 1.5 + count * float(np.interp(count, [12, 60], [0.36, 0.17]))


def labels_of(names: Sequence[str], longest: int = LONGEST_LABEL) -> list[str]:
    """Shorten names for a figure, keep them distinct, and escape ``$`` so that they are not read as formulas."""
    full = [printable(name, 10**6) for name in names]
    short = [printable(name, longest) for name in full]
    labels = list(short)
    for k, label in enumerate(short):
        same = [full[other] for other in range(len(short)) if short[other] == label and other != k]
        if same and label != full[k]:
            prefix = max(_prefix_length(full[k], other) for other in same)
            labels[k] = printable("…" + full[k][max(prefix - longest // 2, 1) :], longest)
    return [label.replace("$", r"\$") for label in labels]


def _prefix_length(a: str, b: str) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def name_rows(ax: "Axes", names: Sequence[str], absent: npt.NDArray[np.bool_], absent_text: str = ABSENT) -> None:
    """Label one row per class, the first on top. If there are many, use a smaller font or skip names.

    Args:
        ax: the axes.
        names: K names.
        absent: classes without data, (K,). Their names are grey.
        absent_text: text in the rows of absent classes.
    """
    count = len(names)
    figure: Any = ax.get_figure(root=True)
    font, step = font_and_step(0.8 * 72 * figure.get_figheight() * ax.get_position().height / max(count, 1))
    ax.set_yticks(range(0, count, step), labels=labels_of(names)[::step], fontsize=font)
    ax.set_ylim(count - 0.5, -0.5)
    ax.grid(axis="y", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    for row in np.flatnonzero(absent):
        if row % step == 0:
            ax.get_yticklabels()[row // step].set_color(GREY)
        at = ax.get_yaxis_transform()
        ax.text(0.01, float(row), absent_text, transform=at, va="center", fontsize=font, color=GREY, style="italic")


def font_and_step(points: float) -> tuple[float, int]:
    """Font size for rows that have room for this size, and the step between labelled rows."""
    step = int(np.ceil(LEAST_FONT / points))
    return float(np.clip(points * step, LEAST_FONT, FONT)), step


def legend_above(ax: "Axes", columns: int | None = None) -> None:
    """Draw the legend above the axes, so that it hides nothing."""
    handles, labels = ax.get_legend_handles_labels()
    columns = columns or max(len(labels), 1)
    ax.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, fontsize=8)
