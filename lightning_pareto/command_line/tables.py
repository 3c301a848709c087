"""Tables for other tools: CSV, JSON and npz."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lightning_pareto.command_line.output import as_json, plain
from lightning_pareto.display.terminal import harmless_line


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of n rows.

    Attributes:
        columns: arrays (n,), or (n, K) with one value for each category.
        category_names: names of the K categories.
    """

    columns: Mapping[str, np.ndarray]
    category_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def names(self) -> list[str]:
        """A name for each column of a flat file, ``influence/cat`` for a category."""
        return [
            name
            for column, values in self.columns.items()
            for name in ([column] if values.ndim == 1 else [f"{column}/{each}" for each in self.category_names])
        ]

    def flat_rows(self) -> Iterator[list[Any]]:
        """Every row as a list, None for NaN."""
        for row in zip(*self.columns.values(), strict=True):
            yield [plain(value) for cell in row for value in np.atleast_1d(cell)]

    def nested_rows(self) -> Iterator[dict[str, Any]]:
        """Every row as a mapping, the values of the categories in one of their own."""
        for row in zip(*self.columns.values(), strict=True):
            yield {
                name: plain(cell) if np.ndim(cell) == 0 else dict(zip(self.category_names, plain(cell), strict=True))
                for name, cell in zip(self.columns, row, strict=True)
            }


def write_csv(table: Table, path: Path) -> None:
    """A header and a line for each row; NaN is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        _csv(file, _rows(table))


def write_json(table: Table, path: Path) -> None:
    """A list with an object for each row, one in a line."""
    with path.open("w", encoding="utf-8") as file:
        _json(table, file)


def write_npz(table: Table, path: Path) -> None:
    """The columns as arrays, with ``category_names``; ``numpy.load(path)`` reads it without pickle."""
    arrays: dict[str, Any] = dict(table.columns)
    if table.category_names:
        arrays["category_names"] = np.array(table.category_names)
    with path.open("wb") as file:
        np.savez(file, **arrays)


WRITERS: Mapping[str, Callable[[Table, Path], None]] = {"csv": write_csv, "json": write_json, "npz": write_npz}


def to_terminal(table: Table, form: str, stream: TextIO) -> None:
    """CSV or JSON to the standard output; a terminal is not shown anything that it obeys."""
    if form == "json":
        _json(table, stream)
    elif stream.isatty():
        _csv(stream, ([harmless_line(cell) if isinstance(cell, str) else cell for cell in row] for row in _rows(table)))
    else:
        _csv(stream, _rows(table))


def _rows(table: Table) -> Iterator[list[Any]]:
    """The header and every row."""
    yield table.names
    yield from table.flat_rows()


def _csv(file: TextIO, rows: Iterable[list[Any]]) -> None:
    csv.writer(file, lineterminator="\n").writerows(rows)


def _json(table: Table, file: TextIO) -> None:
    separator = "[\n"
    for row in table.nested_rows():
        file.write(separator + as_json(row, indent=None))
        separator = ",\n"
    file.write("\n]\n")
