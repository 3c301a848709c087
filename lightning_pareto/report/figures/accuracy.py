"""Accuracy of each class: before and after, in several arms, and what a search has reached."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import stats

from lightning_pareto.evaluation.comparison import ClasswiseComparison, standard_error
from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.report.figures.canvas import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    axes_to_draw_in,
    height_of_rows,
    legend_above,
    name_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    shapes = [np.shape(array) for array in (*arms.values(), counts) if array is not None]
    if set(shapes) != {(len(names),)}:
        raise ValueError(
            f"before, after and support must have shape ({len(names)},), one entry per class, found {shapes}"
        )
    figure, ax = axes_to_draw_in(ax, height_of_rows(len(names)))
    rows = np.arange(len(names))
    for (arm, values), offset, colour, marker in zip(arms.items(), (-0.15, 0.15), (GREY, BLUE), "os", strict=True):
        bars = None if counts is None else 100 * np.abs(_wilson_interval(values, counts) - values)
        mean = f"{arm} (mean {100 * np.nanmean(values):.1f} %)" if np.isfinite(values).any() else arm
        style = {"color": colour, "markersize": 5, "elinewidth": 1.2}
        ax.errorbar(100 * values, rows + offset, xerr=bars, fmt=marker, label=mean, **style)  # type: ignore[arg-type]
    name_rows(ax, names, np.isnan(arms["before"]) & np.isnan(arms["after"]))
    ax.set_xlabel("accuracy in %" + ("" if counts is None else ", 95 % intervals"))
    legend_above(ax)
    return figure, ax


def _wilson_interval(share: Float, count: npt.NDArray[np.generic]) -> Float:
    """Lower and upper ends of Wilson's score intervals of binomial shares, (2, K), NaN without samples."""
    z = stats.norm.isf((1 - COVERAGE) / 2)
    n = np.where(np.asarray(count) > 0, count, np.nan).astype(np.float64)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.stack([centre - half, centre + half])


def plot_comparison(comparison: ClasswiseComparison, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw the accuracy of each arm on each class, as mean and standard error over seeds.

    Args:
        comparison: accuracies of the arms.
        ax: axes to draw in. By default, a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    figure, ax = axes_to_draw_in(ax, height_of_rows(len(comparison.class_names)))
    rows = np.arange(len(comparison.class_names))
    spread = np.linspace(-0.22, 0.22, len(comparison.accuracy))
    for number, (arm, offset) in enumerate(zip(comparison.accuracy, spread, strict=True)):
        values = 100 * comparison.accuracy[arm]
        ax.errorbar(
            values.mean(axis=0),
            rows + offset,
            xerr=np.nan_to_num(standard_error(values)),
            fmt=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],  # all arms look different
            color=COLOURS[number % len(COLOURS)],
            markersize=5,
            elinewidth=1.2,
            label=f"{arm} (mean {np.nanmean(values):.1f} %)",
        )
    name_rows(ax, comparison.class_names, np.isnan(np.concatenate([*comparison.accuracy.values()])).all(axis=0))
    ax.set_xlabel("test accuracy in %, mean ± standard error over seeds")
    legend_above(ax)
    return figure, ax


def plot_frontier(result: ParetoResult, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw what each attempt of a search gained in the mean and in the lowest class, against the ordinary model.

    All are measured on validation samples that they do not know, with the standard error of the mean. A cross marks an
    attempt that harmed some class beyond chance, a ring the one that was returned. The best of several looks better
    than it is, by up to about one error.

    Args:
        result: result of the search.
        ax: axes to draw in. By default, a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    figure, ax = axes_to_draw_in(ax, 4.2)
    ax.axhline(0, color=GREY, linewidth=1)
    ax.axvline(0, color=GREY, linewidth=1)
    ax.plot(0, 0, "s", color=GREY, markersize=6, label="the ordinary model")
    shown = {"without harm": (BLUE, "o", False), "harms a class": (ORANGE, "x", True)}
    for label, (colour, marker, harmful) in shown.items():
        chosen = [one for one in result.attempts if bool(one.harmed.any()) == harmful]
        if chosen:
            mean, error = (100 * np.array([getattr(one, name) for one in chosen]) for name in ("mean", "mean_error"))
            worst = 100 * np.array([one.worst for one in chosen])
            ax.errorbar(mean, worst, xerr=error, fmt=marker, color=colour, markersize=6, elinewidth=1.2, label=label)
    returned = [one for one in result.attempts if one.returned]
    if returned:
        at = [[100 * one.mean for one in returned], [100 * one.worst for one in returned]]
        ax.plot(*at, "o", color=GREEN, fillstyle="none", markersize=14, markeredgewidth=1.6, label="returned")
    _number_points(ax, result)
    ax.set_xlabel("change of the mean accuracy, points")
    ax.set_ylabel("change of the lowest accuracy, points")
    ax.spines[["top", "right"]].set_visible(False)
    legend_above(ax, columns=2)
    return figure, ax


def _number_points(ax: "Axes", result: ParetoResult) -> None:
    """Number the attempts in their order, where a name would not fit. Equal ones share a place."""
    places: dict[tuple[float, float], list[str]] = {}
    for number, one in enumerate(result.attempts, start=1):
        places.setdefault((round(100 * one.mean, 2), round(100 * one.worst, 2)), []).append(str(number))
    for place, numbers in places.items():
        ax.annotate(", ".join(numbers), place, xytext=(5, 5), textcoords="offset points", fontsize=8)


def plot_ceiling(result: ParetoResult, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw the lowest and the highest accuracy of each class that any attempt without harm has reached.

    This is the ceiling as far as it is known: what was tried, and no bound for what was not. The thin line is the 95 %
    interval of the change that reached the highest accuracy. It ignores that this attempt was the best of several.

    Args:
        result: result of the search.
        ax: axes to draw in. By default, a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    count = len(result.category_names)
    figure, ax = axes_to_draw_in(ax, height_of_rows(count))
    rows, (lowest, highest) = np.arange(count), result.reached
    harmless = [one for one in result.attempts if not one.harmed.any()]
    ends = np.array([result.ordinary, result.ordinary])
    for row in rows:
        best = max(harmless, key=lambda one: np.nan_to_num(one.change[row]), default=None)
        if best is not None and best.change[row] > 0:
            ends[:, row] += best.low[row], best.high[row]
    ax.hlines(rows, *(100 * ends.clip(0, 1)), color=BLUE, linewidth=1, alpha=0.6, label="interval of the highest")
    ax.hlines(rows, 100 * lowest, 100 * highest, color=BLUE, linewidth=5, alpha=0.45, label="reached without harm")
    ax.plot(100 * result.ordinary, rows, "s", color=GREY, markersize=5, label="ordinary model")
    name_rows(ax, result.category_names, np.isnan(result.ordinary))
    ax.set_xlabel("validation accuracy in %")
    legend_above(ax, columns=2)
    return figure, ax
