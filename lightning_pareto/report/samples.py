"""Which training samples: the suspects, and those that a pair of categories disagrees about."""

import csv
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.notebook import data_frame, html_table, numbers
from lightning_pareto.display.terminal import harmless
from lightning_pareto.influence.matrix import InfluenceMatrix, check_type


@dataclass(frozen=True, eq=False, repr=False)
class SampleTable:
    """Training samples in some order, by dataset index.

    Attributes:
        title: what they are.
        index: dataset index, (n,).
        given: their label, (n,).
        predicted: the model's own prediction, (n,); None if the influence matrix does not hold it.
        total: influence on the validation set as a whole, see :meth:`InfluenceMatrix.total`, (n,).
        influence: on each category, in units of its mean absolute influence, (n, K).
        category_names: the K categories.
        shown: the categories whose influence is printed; all are in the rows and the CSV file.
    """

    title: str
    index: npt.NDArray[np.int64]
    given: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64] | None
    total: npt.NDArray[np.float64]
    influence: npt.NDArray[np.float64]
    category_names: tuple[str, ...]
    shown: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every sample as a row: index, given, predicted, total, and the influence on each category."""
        for number, index in enumerate(self.index):
            row: dict[str, Any] = {"index": int(index), "given": int(self.given[number])}
            if self.predicted is not None:
                row["predicted"] = int(self.predicted[number])
            row["total"] = float(self.total[number])
            yield row | dict(zip(self.category_names, map(float, self.influence[number]), strict=True))

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the rows to a CSV file, with a header; influence on a category is relative, see :attr:`influence`."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns())
            writer.writeheader()
            writer.writerows(self.rows())
        return path

    def to_pandas(self) -> Any:
        """The rows as a ``pandas.DataFrame`` with the dataset index as its index.

        Raises:
            ImportError: without pandas, with the command that installs it.
        """
        rows = list(self.rows())
        columns = {name: [row[name] for row in rows] for name in self._columns()[1:]}
        return data_frame(columns, self.index, "index")

    def _repr_html_(self) -> str:
        columns: dict[str, Any] = {"index": self.index, "given": self.given}
        if self.predicted is not None:
            columns["predicted"] = self.predicted
        columns |= {"total": numbers(self.total, "{:+.3g}"), "harms": (self.influence < 0).sum(axis=1)}
        for name in self.shown:
            columns[f"on {name}"] = numbers(self.influence[:, self.category_names.index(name)], "{:+.2f}")
        return html_table(self.title, columns)

    def _columns(self) -> list[str]:
        predicted = [] if self.predicted is None else ["predicted"]
        return ["index", "given", *predicted, "total", *self.category_names]

    def __str__(self) -> str:
        heads = "".join(f"  on {harmless(name):<8.8}" for name in self.shown)
        lines = [*textwrap.wrap(self.title, 80), "", f"    index   given  predicted   total   harms{heads}"]
        for number in range(min(len(self), 20)):
            predicted = "" if self.predicted is None else self.predicted[number]
            harmed = int((self.influence[number] < 0).sum())
            named = [self.influence[number, self.category_names.index(name)] for name in self.shown]
            lines.append(
                f"{self.index[number]:9d}  {self.given[number]:6d}  {predicted:>9}  {self.total[number]:+7.3g}   "
                f"{harmed} of {len(self.category_names):<2}" + "".join(f"  {value:+11.2f}" for value in named)
            )
        rest = f"… {len(self) - 20} more: .to_csv(path), .to_pandas() or .rows()"
        return "\n".join(lines + ([rest] if len(self) > 20 else []))


def suspected_samples(influence: InfluenceMatrix, count: int = 100) -> SampleTable:
    """The training samples that harm most over all categories: suspected wrong labels, the worst first.

    Look at them before you believe it: a rare but right sample can harm on average too.

    Args:
        influence: the influence matrix.
        count: how many, at most.

    Returns:
        The table; it prints, and has ``to_csv``, ``to_pandas`` and ``rows``.

    Raises:
        ValueError: for a count below 1.

    Example:
        >>> suspected_samples(InfluenceMatrix([[1.0, 1.0], [-3.0, -1.0], [-1.0, 1.0]], [0, 1, 0]), 1).index
        array([1])
    """
    check_type(influence)
    _check_count(count)
    order = influence.total().argsort(kind="stable")[:count]
    return _table("Suspected wrong labels: the samples that harm most", influence, relative_scores(influence), order)


def trade_off_samples(influence: InfluenceMatrix, helped: str, harmed: str, count: int = 100) -> SampleTable:
    """The training samples that help one category and harm another, the strongest disagreement first.

    Args:
        influence: the influence matrix.
        helped: name of the category that they help.
        harmed: name of the category that they harm.
        count: how many, at most.

    Raises:
        ValueError: for a name that is not a category with validation samples, the same one twice, or a count below 1.

    Returns:
        The table, its two categories printed.

    Example:
        >>> influence = InfluenceMatrix([[1.0, 1.0], [2.0, -1.0], [-1.0, 1.0]], [0, 1, 0], ["cat", "dog"])
        >>> trade_off_samples(influence, helped="cat", harmed="dog").index
        array([1])
    """
    check_type(influence)
    _check_count(count)
    if helped == harmed:
        raise ValueError(f"a trade-off is between two categories, found {helped!r} twice")
    relative = relative_scores(influence)
    columns = [relative[:, column_of(influence, name)] for name in (helped, harmed)]
    strength = np.minimum(columns[0], -columns[1])
    order = np.argsort(-strength, kind="stable")
    order = order[strength[order] > 0][:count]
    table = _table(f"Samples that help {helped!r} and harm {harmed!r}", influence, relative, order)
    return replace(table, shown=(helped, harmed))


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count is how many samples to list, at least 1, found {count}")


def column_of(influence: InfluenceMatrix, name: str) -> int:
    """Number of a category that has validation samples.

    Raises:
        ValueError: for any other name.
    """
    if name not in influence.category_names or not influence.present[influence.category_names.index(name)]:
        raise ValueError(f"{name!r} is not a category with validation samples; they are {influence.category_names}")
    return influence.category_names.index(name)


def relative_scores(influence: InfluenceMatrix) -> npt.NDArray[np.float64]:
    """Scores in units of each column's mean absolute value, (N, K)."""
    relative: npt.NDArray[np.float64] = influence.scores / influence.scale
    return relative


def _table(
    title: str, influence: InfluenceMatrix, relative: npt.NDArray[np.float64], order: npt.NDArray[np.intp]
) -> SampleTable:
    predicted = None if influence.predicted is None else influence.predicted[order]
    total = influence.total()[order]
    return SampleTable(
        title, order, influence.labels[order], predicted, total, relative[order], influence.category_names
    )
