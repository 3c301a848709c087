"""Figures: axes, plotted numbers and readability."""

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from lightning_pareto import (
    ClasswiseComparison,
    SampleWeights,
    check_pareto,
    plot_accuracy,
    plot_ceiling,
    plot_comparison,
    plot_exchange_rates,
    plot_frontier,
    plot_headroom,
    plot_influence,
    plot_predicted,
    plot_weights,
)
from lightning_pareto.report.figures.canvas import ABSENT, labels_of
from tests.report._results import everything, influence, result

LONG = "an unusually long name of a category, number "


def drawings(k, absent=(), names=None):
    """Each figure as a function of the axes."""
    matrix, verdict, weights, found = everything(k, 40 * k, absent, names)
    comparison = ClasswiseComparison({"a": [found.before] * 2, "b": [found.after] * 2}, matrix.category_names, "a")
    present = [name for name, there in zip(matrix.category_names, matrix.present, strict=True) if there]
    return {
        "accuracy": lambda ax: plot_accuracy(found, ax=ax),
        "comparison": lambda ax: plot_comparison(comparison, ax),
        "exchange_rates": lambda ax: plot_exchange_rates(verdict, ax),
        "headroom": lambda ax: plot_headroom(verdict, ax),
        "influence": lambda ax: plot_influence(matrix, present[0], present[1], ax),
        "predicted": lambda ax: plot_predicted(found.before, found.after, matrix.category_names, ax),
        "frontier": lambda ax: plot_frontier(found, ax),
        "ceiling": lambda ax: plot_ceiling(found, ax),
        "weights": lambda ax: plot_weights(weights, matrix.labels, ax=ax),
    }


NAMES = list(drawings(2))
ROWS = ["accuracy", "ceiling", "comparison", "headroom", "weights"]


@pytest.fixture(scope="module")
def of_three():
    return drawings(3, absent=(1,))


def shown_labels(ax):
    return [label for label in ax.get_yticklabels() if label.get_text()]


@pytest.mark.parametrize("name", NAMES)
def test_draws_in_the_given_axes_and_returns_figure_and_axes(of_three, name):
    figure, ax = of_three[name](None)
    assert isinstance(figure, Figure)
    assert ax in figure.axes
    mine = Figure()
    left, right = mine.subplots(1, 2)
    assert of_three[name](right) == (mine, right)
    assert right.has_data()
    assert not left.has_data()


@pytest.mark.parametrize("name", NAMES)
def test_missing_matplotlib_error_says_how_to_install_it(of_three, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning_pareto\[report\]'"):
        of_three[name](None)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("k", [2, 10, 100])
def test_names_do_not_overlap(name, k):
    figure, ax = drawings(k, names=[f"{LONG}{i}, $x_{i}$" for i in range(k)])[name](None)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in shown_labels(ax)]
    tops, bottoms = [box.y0 for box in boxes[:-1]], [box.y1 for box in boxes[1:]]
    assert len(boxes) == k
    assert all(top >= bottom for top, bottom in zip(tops, bottoms, strict=True))
    assert max(box.width for box in boxes) < 0.35 * figure.bbox.width
    assert len({label.get_text() for label in shown_labels(ax)}) == k


@pytest.mark.parametrize("k", [2, 100])
def test_names_of_points_do_not_overlap(k):
    figure, ax = drawings(k, names=[f"category {i}" for i in range(k)])["predicted"](None)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) >= min(k, 10)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("name", ["accuracy", "comparison", "headroom"])
def test_absent_categories_are_marked(of_three, name):
    _, ax = of_three[name](None)
    notes = [text for text in ax.texts if text.get_text() == ABSENT]
    assert [note.get_position()[1] for note in notes] == [1]
    colours = [label.get_color() for label in shown_labels(ax)]
    assert colours[1] != colours[0] == colours[2]


def test_labels_are_shortened_but_stay_distinct():
    assert labels_of(["cat", "a\x1b[31mb"]) == ["cat", "a?[31mb"]
    found = labels_of([f"{LONG}{i}, of ten" for i in range(10)], 16)
    assert len(set(found)) == 10
    assert all(len(label) <= 16 and f"number {i}"[-4:] in label for i, label in enumerate(found))
    assert labels_of(["a$b$c"]) == [r"a\$b\$c"]


def test_accuracy_intervals_are_wilson_intervals():
    found = result(influence(4, absent=(2,)))
    _, ax = plot_accuracy(found)
    for container, values in zip(ax.containers, (found.before, found.after), strict=True):
        points, _, (bars,) = container
        np.testing.assert_allclose(points.get_xdata(), 100 * values)
        for segment, value, n in zip(bars.get_segments(), values, found.support, strict=True):
            if n:
                exact = stats.binomtest(round(value * n), n).proportion_ci(method="wilson")
                np.testing.assert_allclose(segment[:, 0], [100 * exact.low, 100 * exact.high], rtol=1e-9)
    assert f"before (mean {100 * np.nanmean(found.before):.1f} %)" in ax.get_legend_handles_labels()[1]
    _, plain = plot_accuracy(found.before, found.after)
    assert plain.containers[0][2] == ()
    assert [label.get_text() for label in plain.get_yticklabels()] == list("0123")
    with pytest.raises(ValueError, match=r"must have shape \(2,\), one entry per class, found \[\(2,\), \(3,\)\]"):
        plot_accuracy([0.1, 0.2], [0.1, 0.2, 0.3])


def test_headroom_shows_gains_bounds_and_prices():
    verdict = check_pareto(influence(4, absent=(2,)))
    _, ax = plot_headroom(verdict)
    ((points, _, (bars,)),) = ax.containers
    np.testing.assert_array_equal(points.get_xdata(), verdict.held_out_gain)
    t = stats.t.isf(verdict.level, verdict.degrees_of_freedom) * verdict.standard_error
    for k in np.flatnonzero(verdict.present):
        gain = verdict.held_out_gain[k]
        np.testing.assert_allclose(bars.get_segments()[k], [[gain - t[k], k], [gain + t[k], k]])
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["headroom, in sample"].get_xdata() == [verdict.headroom] * 2
    np.testing.assert_array_equal(lines["gain, in sample"].get_xdata(), verdict.together)
    (panel,) = ax.child_axes
    widths = [bar.get_width() for bar in panel.patches]
    np.testing.assert_array_equal(widths, np.where(verdict.present, verdict.prices, np.nan))


def test_headroom_shows_floors_and_works_without_folds():
    matrix = influence(3)
    _, ax = plot_headroom(check_pareto(matrix, targets=["class 0"], floors=-0.1))
    (floor,) = (line for line in ax.lines if line.get_label() == "floor")
    assert floor.get_xdata().tolist() == [-0.1, -0.1]
    assert floor.get_ydata().tolist() == [1, 2]
    _, ax = plot_headroom(check_pareto(matrix.of_folds([0, 1])))
    assert not ax.containers


def test_exchange_rates_are_ratios_of_prices():
    verdict = check_pareto(influence(5, absent=(2,)))
    _, ax = plot_exchange_rates(verdict)
    (image,) = ax.images
    shown, priced = np.ma.filled(image.get_array(), np.nan), verdict.prices > 0
    assert 1 < priced.sum() < 5
    for a, b in np.ndindex(5, 5):
        if priced[b]:
            assert shown[a, b] == pytest.approx(np.clip(verdict.prices[a] / verdict.prices[b], 1 / 20, 20))
        else:
            assert np.isnan(shown[a, b])
    assert len(ax.texts) == 5 * priced.sum()


def test_only_priced_categories_are_shown_if_there_are_many():
    verdict = check_pareto(influence(40, 1000))
    _, ax = plot_exchange_rates(verdict)
    priced = [name for name, price in zip(verdict.category_names, verdict.prices, strict=True) if price > 0]
    assert [label.get_text() for label in ax.get_xticklabels()] == priced
    assert f"{40 - len(priced)} classes without a price omitted" in ax.get_xlabel()


def test_influence_samples_are_split_into_regions():
    matrix = influence(3, 500)
    _, ax = plot_influence(matrix, "class 0", "class 2")
    relative = matrix.scores[:, [0, 2]] / np.abs(matrix.scores[:, [0, 2]]).mean(axis=0, dtype=float)
    trade, good, bad = (dots.get_offsets() for dots in ax.collections)
    both = np.sign(matrix.scores[:, [0, 2]]).sum(axis=1)
    for dots, sign in ((trade, 0), (good, 2), (bad, -2)):
        np.testing.assert_allclose(dots, relative[both == sign], rtol=1e-6)
    assert f"harm both ({(both == -2).mean():.0%})" in ax.get_legend_handles_labels()[1]
    assert np.abs(relative).max() < ax.get_xlim()[1] == ax.get_ylim()[1]
    line = ax.transData.inverted().transform(ax.lines[0].get_transform().transform(ax.lines[0].get_xydata()))
    np.testing.assert_allclose(line[:, 0], -line[:, 1], atol=1e-9)
    with pytest.raises(ValueError, match="'cow' is not a category with validation samples"):
        plot_influence(matrix, "class 0", "cow")
    with pytest.raises(ValueError, match="must be different categories, found 'class 0' twice"):
        plot_influence(matrix, "class 0", "class 0")


def test_predicted_shows_points_and_rank_correlation():
    predicted, measured = np.array([0.1, np.nan, 0.4, 0.2]), np.array([0.2, 0.3, 0.1, 0.5])
    _, ax = plot_predicted(predicted, measured, ["a", "b", "c", "d"])
    (dots,) = (line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_array_equal(dots.get_xydata(), [[0.1, 0.2], [0.4, 0.1], [0.2, 0.5]])
    assert ax.get_title() == f"rank correlation {stats.spearmanr([0.1, 0.4, 0.2], [0.2, 0.1, 0.5])[0]:.2f}; absent: b"
    assert {text.get_text(): text.xy for text in ax.texts} == {"a": (0.1, 0.2), "c": (0.4, 0.1), "d": (0.2, 0.5)}
    _, empty = plot_predicted([np.nan, np.nan], [0.1, 0.2], ["a", "b"])
    assert empty.get_title() == "absent: a, b"
    with pytest.raises(ValueError, match=r"must have shape \(1,\), one entry per class, found \(1,\) and \(2,\)"):
        plot_predicted([1], [1, 2])


def test_weights_are_counted_per_class():
    weights = SampleWeights([0.0, 0.3, 1.0, 1.2, 2.0, 0.5])
    labels = [0, 0, 0, 0, 2, 2]
    _, ax = plot_weights(weights, labels, ["a", "b", "c"])
    widths = np.array([[bar.get_width() for bar in bars] for bars in ax.containers])  # (ranges, classes)
    np.testing.assert_allclose(widths[:, 0], [50, 0, 25, 25, 0])
    np.testing.assert_allclose(widths[:, 2], [0, 50, 0, 0, 50])
    assert np.isnan(widths[:, 1]).all()
    assert ax.get_legend_handles_labels()[1] == ["below 0.5", "0.5 to 0.95", "about 1", "1.05 to 1.5", "above 1.5"]
    _, numbered = plot_weights(weights, labels)
    assert [label.get_text() for label in numbered.get_yticklabels()] == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\), one label per weight, found \(2,\)"):
        plot_weights(weights, [0, 1])


def test_frontier_shows_what_harms_and_what_was_returned():
    found = result(influence())
    _, ax = plot_frontier(found)
    drawn = dict(zip(ax.get_legend_handles_labels()[1], ax.get_legend_handles_labels()[0], strict=True))
    assert set(drawn) == {"the ordinary model", "without harm", "harms a class", "returned"}
    better, worse = found.attempts
    for label, one in {"without harm": better, "harms a class": worse}.items():
        line = drawn[label].lines[0]
        np.testing.assert_allclose([line.get_xdata()[0], line.get_ydata()[0]], [100 * one.mean, 100 * one.worst])
    np.testing.assert_allclose(drawn["returned"].get_xdata(), [100 * better.mean])
    assert [text.get_text() for text in ax.texts] == ["1", "2"]
    refused = plot_frontier(result(influence(), accepted=False))[1]
    assert "returned" not in refused.get_legend_handles_labels()[1]


def test_ceiling_is_what_was_reached_without_harm():
    found = result(influence())
    lowest, highest = found.reached
    change = found.attempts[0].change
    np.testing.assert_allclose(lowest, found.ordinary + np.minimum(change, 0))
    np.testing.assert_allclose(highest, found.ordinary + np.maximum(change, 0))
    _, ax = plot_ceiling(found)
    reached = next(lines for lines in ax.collections if lines.get_label() == "reached without harm")
    ends = np.array([segment[:, 0] for segment in reached.get_segments()])
    np.testing.assert_allclose(ends.T, [100 * lowest, 100 * highest])


def test_every_arm_is_drawn_and_all_look_different():
    arms = {f"arm {number}": [[0.5, number / 10]] for number in range(8)}
    _, ax = plot_comparison(ClasswiseComparison(arms, ["cat", "dog"], "arm 0"))
    dots = [container.lines[0] for container in ax.containers]
    assert [line.get_xdata()[1] for line in dots] == pytest.approx([10.0 * number for number in range(8)])
    assert len({(line.get_color(), line.get_marker()) for line in dots}) == 8
