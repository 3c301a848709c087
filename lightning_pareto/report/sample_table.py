"""A table of single training samples."""

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.columns import number
from lightning_pareto.display.notebook import MOST_ROWS, data_frame, html_table
from lightning_pareto.display.terminal import printable, text_table, wrapped
from lightning_pareto.influence.matrix import sample_columns
from lightning_pareto.report.previews import Preview
from lightning_pareto.report.shown_previews import preview_html, preview_text

PREVIEW = "preview"
"""Heading of the column of previews."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SampleTable:
    """Training samples in some order, by dataset index. Influence has the unit of :attr:`InfluenceMatrix.scores`.

    Attributes:
        title: what the samples are.
        index: dataset index, (n,).
        given: label, (n,).
        predicted: the model's own prediction, (n,); None if the influence matrix does not hold it.
        total: influence on the validation set as a whole, see :meth:`InfluenceMatrix.total`, (n,).
        quality: how well the label fits, see :func:`label_quality`, (n,); below zero for a suspect.
        confidence: probability that the model gives to the label, (n,); None if the matrix does not hold it.
        influence: influence on each category, (n, K).
        category_names: names of the K categories.
        class_names: names of the labels, which are printed in place of the numbers. Empty if they have none.
        shown: the categories whose influence is printed. The rows and the CSV file hold all of them.
        previews: pictures and texts of the first samples by dataset index, which are shown too.
    """

    title: str
    index: npt.NDArray[np.int64]
    given: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64] | None
    total: npt.NDArray[np.float64]
    quality: npt.NDArray[np.float64]
    influence: npt.NDArray[np.float32]
    category_names: tuple[str, ...]
    confidence: npt.NDArray[np.float32] | None = None
    class_names: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    previews: Mapping[int, Preview] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Label, prediction, total and influence on each category by name, (n,) each."""
        more = {"confidence": self.confidence, "quality": self.quality}
        return sample_columns(self.given, self.predicted, self.total, self.influence, self.category_names, more)

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
        cells = self._shown_cells(len(self), lambda index, preview: preview_html(preview, f"Sample {index}"))
        return html_table(self.title, cells, left=[PREVIEW])

    def __str__(self) -> str:
        rest = f"… {len(self) - MOST_ROWS} more: .to_csv(path), .to_pandas() or .rows()"
        cells = self._shown_cells(MOST_ROWS, lambda _, preview: preview_text(preview))
        table = text_table(cells, left=[PREVIEW])
        return "\n".join([*wrapped(self.title), "", *table, *([rest] if len(self) > MOST_ROWS else [])])

    def _shown_cells(self, most: int, show: Callable[[int, Preview], str]) -> dict[str, list[str]]:
        """Cells by heading of the first samples."""
        cells = {"index": list(map(str, self.index[:most])), "given": self._names(self.given[:most])}
        if self.predicted is not None:
            cells["predicted"] = self._names(self.predicted[:most])
        if self.confidence is not None:
            cells["confidence"] = [f"{100 * value:.0f}%" for value in self.confidence[:most]]
        cells["total"] = [number(value, "{:+.3g}") for value in self.total[:most]]
        cells["harms"] = [f"{harmed} of {len(self.category_names)}" for harmed in self.harms[:most]]
        for name in self.shown:
            influence = self.influence[:most, self.category_names.index(name)]
            cells[f"on {printable(name, 12)}"] = [number(value, "{:+.3g}") for value in influence]
        if self.previews:
            indices = self.index[:most].tolist()
            cells[PREVIEW] = [show(i, self.previews[i]) if i in self.previews else "" for i in indices]
        return cells

    def _names(self, labels: npt.NDArray[np.int64]) -> list[str]:
        known = range(len(self.class_names))
        return [printable(self.class_names[label], 16) if label in known else str(label) for label in labels.tolist()]
