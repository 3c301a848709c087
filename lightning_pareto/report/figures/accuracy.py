"""Accuracy of each class, before and after."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import stats

from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.report.figures.canvas import (
    BLUE,
    GREY,
    axes_to_draw_in,
    height_of_rows,
    legend_above,
    name_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Float = npt.NDArray[np.float64]

COVERAGE = 0.95


def plot_accuracy(
    before: "ParetoResult | npt.ArrayLike",
    after: npt.ArrayLike | None = None,
    category_names: Sequence[str] | None = None,
    support: npt.ArrayLike | None = None,
    ax: "Axes | None" = None,
) -> "tuple[Figure, Axes]":
    """Draw the accuracy of each class before and after, with 95 % Wilson intervals if the support is known.

    Each interval describes a single accuracy. Both models are measured on the same samples, so a change may be
    significant even if the intervals overlap. See the p-values of a :class:`ParetoResult`.

    Args:
        before: accuracy of each class, (K,) in [0, 1], NaN without samples. Or a ``ParetoResult``, which replaces all
            other arguments except ``ax``.
        after: the same for the second model, (K,).
        category_names: K names. Numbers by default.
        support: number of samples behind each accuracy, (K,).
        ax: axes to draw in. By default, a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ValueError: if the shapes disagree.
        ImportError: if matplotlib is not installed.
    """
    if isinstance(before, ParetoResult):
        return plot_accuracy(before.before, before.after, before.category_names, before.support, ax)
    arms = {"before": np.asarray(before, dtype=np.float64), "after": np.asarray(after, dtype=np.float64)}
    names = tuple(map(str, range(len(arms["before"])) if category_names is None else category_names))
    counts = None if support is None else np.asarray(support)
    _check_shapes([*arms.values(), *([] if counts is None else [counts])], len(names))
    figure, ax = axes_to_draw_in(ax, height_of_rows(len(names)))
    rows = np.arange(len(names))
    for (arm, values), offset, colour, marker in zip(arms.items(), (-0.15, 0.15), (GREY, BLUE), "os", strict=True):
        bars = None if counts is None else 100 * np.abs(wilson_interval(values, counts) - values)
        mean = f"{arm} (mean {100 * np.nanmean(values):.1f} %)" if np.isfinite(values).any() else arm
        style = {"color": colour, "markersize": 5, "elinewidth": 1.2}
        ax.errorbar(100 * values, rows + offset, xerr=bars, fmt=marker, label=mean, **style)  # type: ignore[arg-type]
    name_rows(ax, names, np.isnan(arms["before"]) & np.isnan(arms["after"]))
    ax.set_xlabel("accuracy in %" + ("" if counts is None else ", 95 % intervals"))
    legend_above(ax)
    return figure, ax


def _check_shapes(arrays: Sequence[npt.NDArray[np.generic]], classes: int) -> None:
    shapes = [array.shape for array in arrays]
    if set(shapes) != {(classes,)}:
        raise ValueError(f"before, after and support must have shape ({classes},), one entry per class, found {shapes}")


def wilson_interval(share: Float, count: npt.NDArray[np.generic], coverage: float = COVERAGE) -> Float:
    """Wilson's score interval of binomial shares.

    Args:
        share: observed shares, (K,).
        count: number of samples behind each share, (K,).
        coverage: coverage of the intervals.

    Returns:
        Lower and upper ends, (2, K), NaN without samples.
    """
    z = stats.norm.isf((1 - coverage) / 2)
    n = np.where(np.asarray(count) > 0, count, np.nan).astype(np.float64)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.stack([centre - half, centre + half])
