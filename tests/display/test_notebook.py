"""Results in a notebook: HTML, data frames, and their own figures."""

import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from lightning_pareto import ClasswiseComparison, InfluenceMatrix, SampleWeights, check_pareto, suspected_samples
from lightning_pareto.pareto.wording import NO_FOLDS
from lightning_pareto.reweighting.weights import PREDICTED
from tests.report._results import everything

EVIL = "<script>alert('x')</script> & \"co\""


class Reader(HTMLParser):
    """Tags and texts of the cells of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def results_by_kind(k=3, n=120, absent=(), names=None):
    matrix, verdict, weights, result = everything(k, n, absent, names)
    comparison = ClasswiseComparison({"a": [result.before] * 2, "b": [result.after] * 2}, matrix.category_names, "a")
    return {
        "InfluenceMatrix": matrix,
        "ParetoVerdict": verdict,
        "SampleWeights": weights,
        "ParetoResult": result,
        "ClasswiseComparison": comparison,
        "SampleTable": suspected_samples(matrix),
    }


KINDS = list(results_by_kind())


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_escaped(kind):
    names = [EVIL, "dog", "cow"]
    page = Reader(results_by_kind(names=names)[kind]._repr_html_())
    assert not {"script", "img"} & set(page.tags)
    assert "table" in page.tags
    if kind != "SampleTable":  # its categories are not named
        assert EVIL in page.texts


@pytest.mark.parametrize("kind", KINDS)
def test_long_tables_are_cut_at_twenty_rows(kind):
    page = results_by_kind(100, 1000, absent=(5,))[kind]._repr_html_()
    assert page.count("<tr>") == 21
    assert "80 more" in page or kind in ("ClasswiseComparison", "SampleTable")
    assert "nan" not in page


def test_numbers_are_those_of_the_results():
    results = results_by_kind(3, absent=(1,))
    verdict, result = results["ParetoVerdict"], results["ParetoResult"]
    texts = Reader(verdict._repr_html_()).texts
    assert f"Pareto improvement possible: {verdict.answer.upper()}" in texts
    row = texts.index("class 2")
    gain, error, alone, price = (float(x) for x in texts[row + 1 : row + 5])
    expected = [verdict.held_out_gain[2], verdict.standard_error[2], verdict.alone[2], verdict.prices[2]]
    np.testing.assert_allclose([gain, error, alone, price], expected, atol=0.005)
    assert texts[texts.index("class 1") + 1] == "–"
    texts = Reader(result._repr_html_()).texts
    assert texts[texts.index("class 0") + 1] == f"{100 * result.before[0]:.1f}"
    assert result.reason in texts


def test_verdict_without_folds_says_so_instead_of_a_p_value():
    page = check_pareto(InfluenceMatrix(np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2))._repr_html_()
    assert NO_FOLDS in page
    assert "nan" not in page


def test_weights_say_how_far_to_trust_predicted_gains():
    assert PREDICTED in Reader(results_by_kind(3)["SampleWeights"]._repr_html_()).texts
    assert PREDICTED not in SampleWeights(np.ones(3))._repr_html_()


def test_data_frames_hold_every_number():
    results = results_by_kind(3, absent=(1,))
    frames = {kind: value.to_pandas() for kind, value in results.items()}
    verdict, result, matrix = (results[kind] for kind in ("ParetoVerdict", "ParetoResult", "InfluenceMatrix"))
    assert frames["ParetoVerdict"].index.tolist() == list(verdict.category_names)
    for name in ("held_out_gain", "lower_bound", "samples_needed", "present"):
        np.testing.assert_array_equal(frames["ParetoVerdict"][name], getattr(verdict, name))
    np.testing.assert_array_equal(frames["ParetoVerdict"]["target"], verdict.targets)
    prices = frames["ParetoVerdict"]["prices"]
    np.testing.assert_array_equal(prices, np.where(verdict.present, verdict.prices, np.nan))
    np.testing.assert_array_equal(frames["ParetoResult"]["change"], result.after - result.before)
    np.testing.assert_array_equal(frames["SampleWeights"]["weight"], results["SampleWeights"].values)
    np.testing.assert_array_equal(frames["InfluenceMatrix"][list(matrix.category_names)], matrix.scores)
    np.testing.assert_array_equal(frames["InfluenceMatrix"]["given"], matrix.labels)
    assert frames["SampleTable"].index.tolist() == results["SampleTable"].index.tolist()
    comparison = frames["ClasswiseComparison"]
    found = comparison[(comparison["arm"] == "b") & (comparison["seed"] == 1)].set_index("class")["accuracy"]
    np.testing.assert_array_equal(found, result.after)


def test_category_named_like_another_column_gets_a_prefix():
    frame = results_by_kind(names=["given", "dog", "cow"])["InfluenceMatrix"].to_pandas()
    assert list(frame.columns) == ["given", "predicted", "total", "influence on given", "dog", "cow"]


@pytest.mark.parametrize("kind", KINDS)
def test_missing_pandas_names_the_package_to_install(kind, monkeypatch):
    value = results_by_kind()[kind]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        value.to_pandas()


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_results_plot_themselves(kind):
    results = results_by_kind()
    inputs = {"InfluenceMatrix": ("class 0", "class 1"), "SampleWeights": (results["InfluenceMatrix"].labels,)}
    mine = Figure().add_subplot()
    figure, ax = results[kind].plot(*inputs.get(kind, ()), ax=mine)
    assert ax is mine
    assert figure is mine.figure
    assert ax.has_data()
