"""Several ways of training over seeds: the table, its tests and its figure."""

import numpy as np
import pytest
from scipy import stats

from lightning_pareto import ClasswiseComparison, plot_comparison


@pytest.fixture
def comparison():
    rng = np.random.default_rng(0)
    ordinary = rng.uniform(0.6, 0.9, (5, 3))
    pareto = ordinary + np.array([0.05, -0.04, 0.0]) + rng.normal(0, 0.005, (5, 3))
    return ClasswiseComparison(
        {"first": ordinary[::-1], "ordinary": ordinary, "Pareto": pareto}, list("abc"), "ordinary"
    )


def test_p_values_are_those_of_a_paired_t_test(comparison):
    a, b = comparison.accuracy["Pareto"], comparison.accuracy["ordinary"]
    np.testing.assert_allclose(comparison.p_values("Pareto")[:-1], stats.ttest_rel(a, b).pvalue)
    assert comparison.p_values("Pareto")[-1] == pytest.approx(stats.ttest_rel(a.mean(1), b.mean(1)).pvalue)
    np.testing.assert_array_equal(comparison.p_values("ordinary"), 1)


def test_says_which_classes_lost(comparison):
    assert comparison.lost("Pareto") == ("b",)
    assert comparison.gained("Pareto") == ("a",)
    text = str(comparison)
    assert f"Pareto: significant losses: b. Mean over classes: p = {comparison.p_values('Pareto')[-1]:.3f}." in text
    assert "first: no significant loss of any class." in text
    row = text.splitlines()[4]
    assert row.split()[:4] == ["c", *f"{100 * comparison.accuracy['first'][:, 2].mean():.2f} ±".split(), row.split()[3]]


def test_changes_that_are_significant_are_marked(comparison):
    text = str(comparison)
    changes = text[text.index("Change against 'ordinary'") :].splitlines()
    assert changes[1].split() == ["first", "Pareto"]
    marks = {line.split()[0]: line.endswith("*") for line in changes[2:6]}
    p_values = dict(zip("abc", comparison.p_values("Pareto"), strict=False))
    assert marks == {
        **{name: p <= 0.05 for name, p in p_values.items()},
        "mean": comparison.p_values("Pareto")[-1] <= 0.05,
    }
    assert len({line.index("±", 25) for line in changes[2:6]}) == 1, "the columns are aligned"


def test_mean_is_over_the_classes_with_samples(comparison):
    arms = {arm: np.column_stack([values, np.full(5, np.nan)]) for arm, values in comparison.accuracy.items()}
    with_absent = ClasswiseComparison(arms, list("abcd"), "ordinary")
    assert with_absent.p_values("Pareto")[-1] == comparison.p_values("Pareto")[-1]
    assert np.isnan(with_absent.p_values("Pareto")[-2])
    assert with_absent.lost("Pareto") == ("b",)
    assert str(with_absent).splitlines()[6].split()[1:] == str(comparison).splitlines()[5].split()[1:]


def test_one_seed_claims_nothing():
    comparison = ClasswiseComparison({"a": [[0.5, 0.6]], "b": [[0.1, 0.1]]}, ["x", "y"], "a")
    assert comparison.lost("b") == ()
    assert np.isnan(comparison.p_values("b")).all()
    assert "1 seed:" in str(comparison)
    assert "b: one seed allows no test. Fit with more seeds." in str(comparison)


def test_arms_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"baseline must be one of the arms \['a'\], found 'c'"):
        ClasswiseComparison({"a": [[0.5]]}, ["x"], "c")
    with pytest.raises(ValueError, match=r"arm 'b' must have shape \(1, 1\)"):
        ClasswiseComparison({"a": [[0.5]], "b": [[0.5, 0.5]]}, ["x"], "a")


def test_figure_shows_every_arm_and_class(comparison, tmp_path):
    figure, axes = plot_comparison(comparison)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert len(axes.get_legend_handles_labels()[1]) == 3
    figure.savefig(tmp_path / "figure.png")
    again, same = plot_comparison(comparison, axes)
    assert (again, same) == (figure, axes)
