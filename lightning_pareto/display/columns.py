"""Columns of a result's table, declared once and read by every way to show it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column: a value of every category.

    Attributes:
        heading: what a reader sees above it.
        form: how a number is formatted, for instance ``"{:+.3f}"``.
        meaning: one sentence that explains it.
        read: function of the result returning the values, (K,).
    """

    heading: str
    form: str
    meaning: str
    read: Callable[[T], Any]

    def values(self, result: T) -> np.ndarray:
        """The values, (K,); NaN where there is none."""
        return np.asarray(self.read(result))

    def cells(self, result: T) -> list[str]:
        """The values as text."""
        return [number(value, self.form) for value in self.values(result)]


Columns = Mapping[str, Column[T]]
"""Columns by name: the key in data frames, JSON and files."""


def number(value: Any, form: str) -> str:
    """A number as text; a dash for NaN, a sign for infinity."""
    value = float(value)
    if math.isnan(value):
        return "–"
    return ("∞" if value > 0 else "−∞") if math.isinf(value) else form.format(value)


def chosen_cells(columns: Columns[T], names: Sequence[str], result: T) -> dict[str, list[str]]:
    """Cells by heading of the columns with these names."""
    return {columns[name].heading: columns[name].cells(result) for name in names}


def values_of(columns: Columns[T], result: T) -> dict[str, np.ndarray]:
    """Values of every column by name."""
    return {name: column.values(result) for name, column in columns.items()}
