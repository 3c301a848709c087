"""Columns that are declared once and read by every way to show a result."""

from types import SimpleNamespace

import numpy as np
import pytest

from lightning_pareto.display.columns import Column, chosen_cells, number


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.12345, "{:+.3f}", "+0.123"),
        (-0.5, "{:.1f}", "-0.5"),
        (7, "{:.0f}", "7"),
        (np.float32(0.25), "{:.0%}", "25%"),
        (np.nan, "{:+.3f}", "–"),
        (np.inf, "{:.0f}", "∞"),
        (-np.inf, "{:.0f}", "−∞"),
    ],
)
def test_number_as_text(value, form, text):
    assert number(value, form) == text


GAIN = Column("gain", "{:+.2f}", "What it gains.", lambda result: result.gain)
SIZE = Column("samples", "{:.0f}", "How many there are.", lambda result: list(result.size))


def test_column_reads_and_formats_its_values():
    result = SimpleNamespace(gain=np.array([0.125, np.nan, -np.inf]), size=(3, 4, 5))
    np.testing.assert_array_equal(GAIN.values(result), result.gain)
    assert GAIN.cells(result) == ["+0.12", "–", "−∞"]
    np.testing.assert_array_equal(SIZE.values(result), [3, 4, 5])
    assert SIZE.cells(result) == ["3", "4", "5"]


def test_chosen_columns_come_in_the_order_asked_for_under_their_headings():
    result = SimpleNamespace(gain=np.array([1.0]), size=(3,))
    columns = {"gain": GAIN, "size": SIZE}
    assert list(chosen_cells(columns, ["size", "gain"], result).items()) == [("samples", ["3"]), ("gain", ["+1.00"])]
    assert chosen_cells(columns, ["size"], result) == {"samples": ["3"]}
    with pytest.raises(KeyError):
        chosen_cells(columns, ["price"], result)
