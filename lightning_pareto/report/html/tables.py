"""The tables of the report: classes, suspected samples, and how the results were computed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lightning_pareto.display.columns import Columns
from lightning_pareto.display.notebook import Html
from lightning_pareto.display.terminal import printable
from lightning_pareto.evaluation.result import COLUMNS as RESULT_COLUMNS
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.columns import COLUMNS as VERDICT_COLUMNS
from lightning_pareto.report import story
from lightning_pareto.report.html.run import Run
from lightning_pareto.report.samples import suspected_samples
from lightning_pareto.report.shown_previews import preview_html
from lightning_pareto.report.story import MISTAKEN, OUTCOME_COLUMNS, STEP_COLUMN, mistake

T = TypeVar("T")

VERDICT = ("support", "held_out_gain", "standard_error", "lower_bound", "together", "alone", "prices")
"""Columns of the verdict that the report shows as evidence."""

MISTAKES = "The class that most of the wrong predictions are, and how many of them."
"""What the column of mistakes means."""

RESULT = ("before", "after", "change", "refused", "p_values")
"""Columns of a search's result that the report shows."""

MOST_SUSPECTS = 48
LONGEST_NAME = 60


@dataclass(frozen=True)
class Cell:
    """A cell and its sorting key, which is None for a missing value. These come last."""

    text: str
    key: float | str | None


@dataclass(frozen=True)
class TableColumn:
    """A column of the table of classes: a heading, a sentence that explains it, and a cell per class."""

    head: str
    meaning: str
    cells: list[Cell]


@dataclass(frozen=True)
class Suspect:
    """A training sample whose label is suspected, with a preview if there is one."""

    index: int
    given: str
    predicted: str | None
    harms: int
    confidence: str | None
    preview: Html | None


def accuracy_columns(run: Run) -> list[TableColumn]:
    """The columns of the table of accuracies, without empty ones: today, after the small step, after the search."""
    columns: list[TableColumn] = []
    if run.outcome is not None:
        columns += _columns(OUTCOME_COLUMNS, tuple(OUTCOME_COLUMNS), run.outcome)
        if run.outcome.predicted is not None:
            found = run.outcome.mistaken_for
            cells = [Cell(mistake(each, run.class_names, LONGEST_NAME), each[1] or None) for each in found]
            columns.append(TableColumn(MISTAKEN.capitalize(), MISTAKES, cells))
    if run.step is not None:
        columns += _columns({"change": STEP_COLUMN}, ("change",), run.step)
    if run.result is not None:
        columns += _columns(RESULT_COLUMNS, RESULT, run.result)
    return _named(run, columns)


def lowest_first(run: Run, rows: Sequence[tuple[Cell, ...]]) -> list[tuple[Cell, ...]]:
    """The rows by today's accuracy, if it is known."""
    return list(rows) if run.outcome is None else [rows[k] for k in story.lowest_first(run.outcome)]


def evidence_columns(run: Run) -> list[TableColumn]:
    """The columns of the table of the verdict, without empty ones."""
    if run.verdict is None:
        return []
    needed = ("samples_needed",) if run.verdict.answer == "not proven" else ()
    return _named(run, list(_columns(VERDICT_COLUMNS, VERDICT + needed, run.verdict)))


def rows_of(columns: Sequence[TableColumn]) -> list[tuple[Cell, ...]]:
    """The rows of a table."""
    return list(zip(*(column.cells for column in columns), strict=True))


def _named(run: Run, columns: list[TableColumn]) -> list[TableColumn]:
    full = [column for column in columns if any(cell.key is not None for cell in column.cells)]
    names = [printable(name, LONGEST_NAME) for name in run.category_names]
    return [TableColumn("Class", "Name of the class or category.", [Cell(name, name) for name in names]), *full]


def _columns(declared: Columns[T], names: Sequence[str], result: T) -> Iterator[TableColumn]:
    for column in (declared[name] for name in names):
        texts, values = column.cells(result), np.clip(column.values(result), -1e300, 1e300)  # JSON has no infinity
        keys = [None if np.isnan(value) else float(value) for value in values]
        cells = [Cell(text.replace("-", "−"), key) for text, key in zip(texts, keys, strict=True)]
        yield TableColumn(column.heading[:1].upper() + column.heading[1:], column.meaning, cells)


def suspects(run: Run) -> list[Suspect]:
    """The most suspected samples, with a preview if there is one."""
    if run.influence is None:
        return []
    table = suspected_samples(run.influence, MOST_SUSPECTS)
    previews = {} if run.previews is None else run.previews.of
    found = []
    for row in (row for row in range(len(table)) if table.quality[row] < 0):
        preview = previews.get(int(table.index[row]))
        found.append(
            Suspect(
                index=int(table.index[row]),
                given=_label(run, int(table.given[row])),
                predicted=None if table.predicted is None else _label(run, int(table.predicted[row])),
                harms=int(table.harms[row]),
                confidence=None if table.confidence is None else f"{table.confidence[row]:.0%}",
                preview=None if preview is None else preview_html(preview, f"Sample {table.index[row]}"),
            )
        )
    return found


def _label(run: Run, label: int) -> str:
    names = run.class_names
    return printable(names[label], LONGEST_NAME) if 0 <= label < len(names) else str(label)


def how_computed(run: Run) -> dict[str, str]:
    """What the results were computed from, by name."""
    found: dict[str, Any] = {}
    if run.influence is not None:
        found |= _of_influence(run.influence)
    if (verdict := run.verdict) is not None:
        found |= {"Budget": f"{verdict.budget:.0%} of the training mass may move", "Level": f"{verdict.level:g}"}
        found["Negligible gain"] = f"{verdict.min_gain:g}"
        found["First principal axis"] = f"{verdict.explained_variance_ratio[0]:.0%} of the variance"
        found["Distance from the trade-off plane"] = f"{verdict.hyperplane_distance:.2f} of 1"
    if (weights := run.weights) is not None:
        found["Weights"] = (
            f"{weights.values.min():.2f} to {weights.values.max():.2f}, {weights.moved:.1%} of the mass moved, "
            f"effective size {weights.effective_size:,.0f} of {len(weights):,}"
        )
        found |= {f"Weights: {name}": value for name, value in weights.metadata.items() if _plain(value)}
    if run.result is not None:
        found["Search"] = f"{run.result.epochs_spent} epochs in {len(run.result.trials)} trials"
        found["Best epoch"] = run.result.best_epoch
        found["Model returned"] = run.result.ckpt_path
    return {name: printable(str(value), 200) for name, value in found.items()}


def _of_influence(influence: InfluenceMatrix) -> dict[str, Any]:
    metadata = influence.metadata
    n, k = influence.scores.shape
    found: dict[str, Any] = {"Training samples": f"{n:,}", "Classes": k}
    if influence.support is not None:
        found["Validation samples"] = f"{int(influence.support.sum()):,}"
    found |= {name.replace("_", " ").capitalize(): v for name, v in _mapping(metadata, "options").items() if _plain(v)}
    if "checkpoint" in metadata:
        found["Checkpoint"] = metadata["checkpoint"]
    kinds = Counter(map(str, _mapping(metadata, "parameters").values()))
    if kinds:
        found["Parameters"] = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return found | {f"Version of {name}": version for name, version in _mapping(metadata, "versions").items()}


def _mapping(metadata: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = metadata.get(name)
    return found if isinstance(found, Mapping) else {}


def _plain(value: Any) -> bool:
    return value is not None and isinstance(value, (str, int, float, list, tuple))
