"""Training samples worth a look: suspected wrong labels, and samples that two categories disagree about."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.columns import number
from lightning_pareto.display.notebook import data_frame, html_table
from lightning_pareto.display.terminal import printable, text_table, wrapped
from lightning_pareto.influence.matrix import InfluenceMatrix, check_type, sample_columns

MOST_ROWS = 20


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SampleTable:
    """Training samples in some order, by dataset index. Influence has the unit of :attr:`InfluenceMatrix.scores`.

    Attributes:
        title: what the samples are.
        index: dataset index, (n,).
        given: label, (n,).
        predicted: the model's own prediction, (n,); None if the influence matrix does not hold it.
        total: influence on the validation set as a whole, see :meth:`InfluenceMatrix.total`, (n,).
        influence: influence on each category, (n, K).
        category_names: names of the K categories.
        class_names: names of the labels, which are printed in place of the numbers. Empty if they have none.
        shown: the categories whose influence is printed. The rows and the CSV file hold all of them.
    """

    title: str
    index: npt.NDArray[np.int64]
    given: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64] | None
    total: npt.NDArray[np.float64]
    influence: npt.NDArray[np.float32]
    category_names: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Label, prediction, total and influence on each category by name, (n,) each."""
        return sample_columns(self.given, self.predicted, self.total, self.influence, self.category_names)

    @property
    def harms(self) -> npt.NDArray[np.int64]:
        """How many categories each sample harms, (n,)."""
        count: npt.NDArray[np.int64] = (self.influence < 0).sum(axis=1)
        return count

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each sample as a row: index, given, predicted, total, and the influence on each category."""
        columns = {"index": self.index, **self.columns}
        for row in zip(*columns.values(), strict=True):
            yield {name: value.item() for name, value in zip(columns, row, strict=True)}

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the rows to a CSV file with a header."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["index", *self.columns])
            writer.writeheader()
            writer.writerows(self.rows())
        return path

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` indexed by dataset index. An ImportError says how to install pandas."""
        return data_frame(self.columns, self.index, "index")

    def _repr_html_(self) -> str:
        return html_table(self.title, self._shown_cells(len(self)))

    def __str__(self) -> str:
        rest = f"… {len(self) - MOST_ROWS} more: .to_csv(path), .to_pandas() or .rows()"
        table = text_table(self._shown_cells(MOST_ROWS))
        return "\n".join([*wrapped(self.title), "", *table, *([rest] if len(self) > MOST_ROWS else [])])

    def _shown_cells(self, most: int) -> dict[str, list[str]]:
        """Cells by heading of the first samples."""
        cells = {"index": list(map(str, self.index[:most])), "given": self._names(self.given[:most])}
        if self.predicted is not None:
            cells["predicted"] = self._names(self.predicted[:most])
        cells["total"] = [number(value, "{:+.3g}") for value in self.total[:most]]
        cells["harms"] = [f"{harmed} of {len(self.category_names)}" for harmed in self.harms[:most]]
        for name in self.shown:
            influence = self.influence[:most, self.category_names.index(name)]
            cells[f"on {printable(name, 12)}"] = [number(value, "{:+.3g}") for value in influence]
        return cells

    def _names(self, labels: npt.NDArray[np.int64]) -> list[str]:
        known = range(len(self.class_names))
        return [printable(self.class_names[label], 16) if label in known else str(label) for label in labels.tolist()]


def suspected_samples(influence: InfluenceMatrix, count: int = 100) -> SampleTable:
    """The training samples that harm most over all categories: suspected wrong labels, the worst first.

    Look at them before you believe it. A rare but correct sample can harm on average too.

    Args:
        influence: the influence matrix.
        count: largest number of samples.

    Returns:
        A table that prints itself and has ``to_csv``, ``to_pandas`` and ``rows``.

    Raises:
        ValueError: for a count below 1.

    Example:
        >>> suspected_samples(InfluenceMatrix([[1.0, 1.0], [-3.0, -1.0], [-1.0, 1.0]], [0, 1, 0]), 1).index
        array([1])
    """
    check_type(influence)
    order = influence.total().argsort(kind="stable")
    return _table("Suspected wrong labels: the samples that harm most", influence, order, count)


def trade_off_samples(influence: InfluenceMatrix, helped: str, harmed: str, count: int = 100) -> SampleTable:
    """The training samples that help one category and harm another, the strongest disagreement first.

    Args:
        influence: the influence matrix.
        helped: name of the category that they help.
        harmed: name of the category that they harm.
        count: largest number of samples.

    Returns:
        A table that prints the influence on both categories.

    Raises:
        ValueError: for a name that is not a category with validation samples, the same name twice, or a count below 1.

    Example:
        >>> influence = InfluenceMatrix([[1.0, 1.0], [2.0, -1.0], [-1.0, 1.0]], [0, 1, 0], ("cat", "dog"))
        >>> trade_off_samples(influence, helped="cat", harmed="dog").index
        array([1])
    """
    check_type(influence)
    if helped == harmed:
        raise ValueError(f"a trade-off is between two categories, found {helped!r} twice")
    relative = influence.scores / influence.scale
    gain, loss = (relative[:, column_of(influence, name)] for name in (helped, harmed))
    strength = np.minimum(gain, -loss)
    order = np.argsort(-strength, kind="stable")
    title = f"Samples that help {helped!r} and harm {harmed!r}"
    return _table(title, influence, order[strength[order] > 0], count, (helped, harmed))


def column_of(influence: InfluenceMatrix, name: str) -> int:
    """Number of a category that has validation samples.

    Raises:
        ValueError: for any other name.
    """
    names = influence.category_names
    if name not in names or not influence.present[names.index(name)]:
        raise ValueError(f"{name!r} is not a category with validation samples; they are {names}")
    return names.index(name)


def _table(
    title: str, influence: InfluenceMatrix, order: npt.NDArray[np.intp], count: int, shown: tuple[str, ...] = ()
) -> SampleTable:
    if count < 1:
        raise ValueError(f"count is the number of samples to list, at least 1, found {count}")
    order = order[:count]
    return SampleTable(
        title=title,
        index=order,
        given=influence.labels[order],
        predicted=None if influence.predicted is None else influence.predicted[order],
        total=influence.total()[order],
        influence=influence.scores[order],
        category_names=influence.category_names,
        class_names=influence.class_names,
        shown=shown,
    )
