"""Accuracy of each class: before and after, in several arms, and along a search."""

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
    spent, complete = epochs.cumsum(), epochs == epochs.max(initial=0)
    mean, worst = (100 * np.array([getattr(trial, name) for trial in result.trials]) for name in ("macro", "worst"))
    series = {"mean over the classes": (mean, BLUE, "o"), "worst class": (worst, ORANGE, "s")}
    for name, (values, colour, marker) in series.items():
        faces = [colour if filled else "none" for filled in complete]
        ax.scatter(spent, values, s=28, marker=marker, edgecolors=colour, facecolors=faces, label=name)
    ax.step(spent, np.fmax.accumulate(mean), where="post", color=GREY, linewidth=1.2, label="best mean so far")
    ax.set_xlabel("epochs spent (filled: complete fits, open: short trials)")
    ax.set_ylabel("validation accuracy in %")
    ax.grid(axis="y", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    legend_above(ax)
    return figure, ax
