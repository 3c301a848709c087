"""Tables of single training samples."""

import csv
import html
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from lightning_pareto import InfluenceMatrix, estimate_influence, label_quality, suspected_samples, trade_off_samples
from lightning_pareto.report.previews import png_data, preview_of
from tests._oracles import loader

SCORES = np.array([[1.0, 4.0], [-2.0, -1.0], [3.0, -8.0], [-0.5, 3.0], [0.5, -2.0]])


def influence(**options):
    return InfluenceMatrix(SCORES, [0, 1, 0, 1, 1], ["cat", "dog"], **options)


def test_suspects_are_sorted_worst_first():
    table = suspected_samples(influence(predicted=[0, 0, 1, 1, 1]))
    expected = SCORES.mean(axis=1)
    assert table.index.tolist() == expected.argsort(kind="stable").tolist()
    np.testing.assert_allclose(table.total, np.sort(expected))
    assert table.given.tolist() == [[0, 1, 0, 1, 1][i] for i in table.index]
    assert table.predicted.tolist() == [[0, 0, 1, 1, 1][i] for i in table.index]
    assert len(suspected_samples(influence(), 2)) == 2


def test_printed_labels_are_names_if_the_categories_are_the_classes():
    rows = str(suspected_samples(influence(predicted=[0, 0, 1, 1, 1]))).splitlines()[3:]
    assert [row.split()[:3] for row in rows[:2]] == [["2", "cat", "dog"], ["1", "dog", "cat"]]
    own = influence(predicted=[0, 0, 1, 1, 1], metadata={"categories": "own"})
    assert str(suspected_samples(own)).splitlines()[3].split()[:3] == ["2", "0", "1"]


def test_categories_count_by_their_validation_samples():
    found = suspected_samples(influence(support=[9, 1])).index
    assert found.tolist() == (SCORES @ np.sqrt([2 * 9, 3 * 1])).argsort().tolist()


def test_suspects_go_by_the_models_confidence_too():
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.99, 0.01], [0.2, 0.8], [0.95, 0.05]])
    table = suspected_samples(influence(probabilities=probabilities))
    assert table.index[0] == 4, "the model is sure of another label, and the influence is negative as well"
    np.testing.assert_allclose(table.confidence, [probabilities[i][[0, 1, 0, 1, 1][i]] for i in table.index], rtol=1e-6)
    np.testing.assert_allclose(table.quality, label_quality(influence(probabilities=probabilities))[table.index])
    assert (np.diff(table.quality) >= 0).all()
    assert "confidence" in str(table).splitlines()[2]
    assert [row["confidence"] for row in table.rows()] == pytest.approx(table.confidence.tolist())


def test_label_quality_counts_classes_by_their_frequencies_in_both_sets():
    support = [16, 4]
    shares = np.sqrt([2 * 16, 3 * 4])
    total = SCORES @ (shares / shares.sum())
    np.testing.assert_allclose(label_quality(influence(support=support)), np.arcsinh(total / np.abs(total).mean()))
    own = influence(support=support, metadata={"categories": "own"})
    total = own.total()
    np.testing.assert_allclose(label_quality(own), np.arcsinh(total / np.abs(total).mean()))
    nothing = InfluenceMatrix(np.zeros((3, 2)), [0, 1, 0], probabilities=np.full((3, 2), 0.5))
    assert label_quality(nothing)[1] > label_quality(nothing)[0], "a rare class has the larger margin"


def test_trade_offs_help_one_category_and_harm_the_other():
    assert trade_off_samples(influence(), "cat", "dog").index.tolist() == [2, 4]
    assert trade_off_samples(influence(), "dog", "cat").index.tolist() == [3]
    with pytest.raises(ValueError, match="'cow' is not a category with validation samples"):
        trade_off_samples(influence(), "cat", "cow")


def test_absent_category_is_ignored():
    scores = SCORES.copy()
    scores[:, 1] = np.nan
    found = InfluenceMatrix(scores, [0, 1, 0, 1, 1], ["cat", "dog"])
    assert suspected_samples(found).index[0] == 1
    with pytest.raises(ValueError, match="'dog' is not a category"):
        trade_off_samples(found, "cat", "dog")


def test_table_can_be_written_as_csv_and_needs_pandas_for_a_frame(tmp_path, monkeypatch):
    table = suspected_samples(influence(predicted=[0, 0, 1, 1, 1]), 3)
    with table.to_csv(tmp_path / "new" / "suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "given", "predicted", "quality", "total", "cat", "dog"]
    assert [int(row["index"]) for row in rows] == table.index.tolist()
    assert float(rows[0]["dog"]) == pytest.approx(table.influence[0, 1])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        table.to_pandas()


def test_printed_table_says_how_many_categories_each_sample_harms():
    text = str(suspected_samples(influence(predicted=[0, 0, 1, 1, 1])))
    assert text.splitlines()[0].startswith("Suspected wrong labels")
    assert "2 of 2" in text
    many = InfluenceMatrix(np.random.default_rng(0).normal(size=(50, 2)), np.zeros(50, int))
    assert "… 30 more" in str(suspected_samples(many))


def test_estimate_has_the_models_predictions():
    torch.manual_seed(0)
    module, x = nn.Linear(3, 4), torch.randn(30, 3)
    data = loader(x, torch.arange(30) % 4, shuffle=True)
    found = estimate_influence(module, data, data)
    assert found.predicted.tolist() == module(x).argmax(1).tolist()


def test_predictions_survive_saving(tmp_path):
    found = influence(predicted=[0, 0, 1, 1, 1])
    assert InfluenceMatrix.load(found.save(tmp_path / "i")).predicted.tolist() == [0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match=r"predicted must have shape \(5,\)"):
        influence(predicted=[0, 1])


def test_only_the_two_categories_are_printed():
    scores = np.array([[2.0, -1.0, 0.5], [-1.0, 2.0, 0.1], [3.0, -2.0, 0.2]])
    text = str(trade_off_samples(InfluenceMatrix(scores, [0, 1, 2], ["cat", "dog", "cow"]), "cat", "dog"))
    first, second = text.splitlines()[3:5]
    assert "on cat" in text
    assert "on dog" in text
    assert "on cow" not in text
    assert first.split()[0] == "2"
    assert first.split()[-2:] == ["+3", "-2"], "in the unit of the scores"
    assert second.split()[-2:] == ["+2", "-1"]


def test_meaningless_arguments_are_refused():
    matrix = InfluenceMatrix(np.ones((3, 2)), [0, 1, 0], ["cat", "dog"])
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"at least 1, found {count}"):
            suspected_samples(matrix, count)
    with pytest.raises(ValueError, match="between two categories, found 'cat' twice"):
        trade_off_samples(matrix, "cat", "cat")


class Items:
    """A training dataset that notes which items are read."""

    def __init__(self, items):
        self.items, self.read = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.read.append(index)
        return self.items[index]


PICTURES = Items([(torch.rand(1, 6 + i, 9), 0) for i in range(5)])


def test_pictures_of_a_dataset_are_shown():
    table = suspected_samples(influence(), dataset=PICTURES)
    rows = str(table).splitlines()[3:]
    assert [row.split()[0] for row in rows] == ["2", "1", "4", "3", "0"]
    assert [row.split()[-2:] for row in rows] == [["picture", f"{6 + i}×9"] for i in table.index]
    page = table._repr_html_()
    assert page.count("<img") == 5
    for i in table.index.tolist():
        png = png_data(preview_of(PICTURES.items[i]))
        assert f'<img src="{png}" alt="Sample {i}"' in page.split(f">{i}</td>")[1].split("</tr>")[0]


def test_texts_are_cut_to_a_column_and_escaped_in_html():
    evil = '<script>alert(1)</script> & "more"'
    texts = ["short", "two\nlines\x1b[2J", "a longer text that is cut", evil, "猫" * 30]
    table = suspected_samples(influence(), dataset=[(text, 0) for text in texts])
    lines = str(table).splitlines()[2:]
    start = lines[0].index("preview")
    shown = {int(line.split()[0]): line[start:] for line in lines[1:]}
    assert shown == {
        0: "short",
        1: "two lines?[2J",
        2: "a longer text that …",
        3: "<script>alert(1)</s…",
        4: "猫" * 9 + "…",
    }
    page = table._repr_html_()
    assert "<script" not in page
    assert html.escape(evil) in page
    assert "a longer text that is cut<" in page
    assert "two\nlines" in page


def test_function_makes_the_previews():
    table = suspected_samples(influence(), 2, dataset=PICTURES, preview=lambda item: f"sum {item[0].sum():.3f}")
    assert table.previews == {i: f"sum {PICTURES.items[i][0].sum():.3f}" for i in (2, 1)}
    assert table.previews[1] in str(table)
    assert table.previews[1] in table._repr_html_()


def test_previews_are_an_addition():
    """Other columns, rows and files stay as they are, and without a dataset there is no column."""
    plain, shown = suspected_samples(influence()), suspected_samples(influence(), dataset=PICTURES)
    assert "preview" not in str(plain) + plain._repr_html_()
    for line, longer in zip(str(plain).splitlines(), str(shown).splitlines(), strict=True):
        assert longer.startswith(line)
    assert list(plain.rows()) == list(shown.rows())
    assert list(plain.columns) == list(shown.columns)


def test_only_printed_items_are_read_and_once():
    matrix = InfluenceMatrix(np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2)
    data = Items([("a text", 0)] * 50)
    table = suspected_samples(matrix, 30, dataset=data)
    assert data.read == table.index[:20].tolist()
    assert (str(table) + table._repr_html_()).count("a text") == 40
    assert len(data.read) == 20


def test_item_without_a_preview_leaves_a_gap_and_an_error_warns():
    mixed = [("first", 0), (torch.rand(3), 0), ("third", 0), ("fourth", 0), ("fifth", 0)]
    table = suspected_samples(influence(), dataset=mixed)
    assert [line.split()[-1] for line in str(table).splitlines()[3:5]] == ["third", "2"]
    with pytest.warns(UserWarning, match="no preview of 1 suspected samples, sample 1: TypeError: "):
        table = suspected_samples(influence(), dataset=[*mixed[:1], None, *mixed[2:]], preview=lambda item: item[0])
    assert sorted(table.previews) == [0, 2, 3, 4]
    with pytest.warns(UserWarning, match="no previews: expected items with a picture or a text"):
        table = suspected_samples(influence(), dataset=[(torch.rand(3), 0)] * 5)
    assert str(table) == str(suspected_samples(influence()))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        suspected_samples(influence(), dataset=[(torch.rand(3), 0)] * 5)
    assert found[0].filename == __file__


def test_picture_is_mentioned_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    page = suspected_samples(influence(), dataset=PICTURES)._repr_html_()
    assert "<img" not in page
    assert "picture 8×9" in page


def test_long_table_says_how_to_see_the_rest():
    matrix = InfluenceMatrix(np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2)
    assert str(suspected_samples(matrix, 30)).endswith("… 10 more: .to_csv(path), .to_pandas() or .rows()")


def test_order_of_trade_offs_does_not_depend_on_the_scale_of_a_category():
    scores = np.random.default_rng(0).normal(size=(60, 2))
    tables = [
        trade_off_samples(InfluenceMatrix(scores * [1.0, factor], np.zeros(60, int), ["cat", "dog"]), "cat", "dog")
        for factor in (1.0, 1000.0)
    ]
    assert tables[0].index.tolist() == tables[1].index.tolist()
    np.testing.assert_allclose(tables[1].influence, tables[0].influence * [1.0, 1000.0], rtol=1e-6)


def test_rows_are_plain_values():
    rows = list(suspected_samples(influence(predicted=[0, 0, 1, 1, 1]), 2).rows())
    quality = label_quality(influence())[2]
    assert rows[0] == {
        "index": 2,
        "given": 0,
        "predicted": 1,
        "quality": quality,
        "total": -2.5,
        "cat": 3.0,
        "dog": -8.0,
    }
    assert {type(value) for value in rows[1].values()} == {int, float}
