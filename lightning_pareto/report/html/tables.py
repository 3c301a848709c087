"""The tables of the report: classes, suspected samples, trials, and how it was computed."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_pareto.display.terminal import harmless
from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report.html.pictures import png_data
from lightning_pareto.report.html.run import Run
from lightning_pareto.report.samples import suspected_samples

MOST_SUSPECTS = 48
LONGEST_NAME = 60


@dataclass(frozen=True)
class Cell:
    """One cell: what is read and what it is sorted by.

    Attributes:
        text: in digits or words.
        key: a number, a text, or None for nothing, which comes last.
    """

    text: str
    key: float | str | None


@dataclass(frozen=True)
class Column:
    """One column of the table of classes.

    Attributes:
        head: short.
        meaning: in a sentence.
        cells: one for each class.
    """

    head: str
    meaning: str
    cells: list[Cell]


@dataclass(frozen=True)
class Suspect:
    """A training sample that harms.

    Attributes:
        index: in the dataset.
        given: its label.
        predicted: by the model, if it is known.
        harms: how many classes it harms.
        picture: address of a picture.
        text: of a text sample.
    """

    index: int
    given: str
    predicted: str | None
    harms: int
    picture: str | None
    text: str | None


def class_columns(run: Run) -> list[Column]:
    """The columns of the table of classes, as far as there is something in them."""
    names = [harmless(name, LONGEST_NAME) for name in run.category_names]
    columns = [Column("Class", "Name of the class or category.", [Cell(name, name) for name in names])]
    if run.verdict is not None:
        columns += _of_verdict(run.verdict)
    if run.result is not None:
        columns += _of_result(run.result)
    return [column for column in columns if any(cell.key is not None for cell in column.cells)]


def _of_verdict(verdict: ParetoVerdict) -> Iterator[Column]:
    samples = "Validation samples of the class."
    yield _numbers("Samples", samples, np.where(verdict.present, verdict.support, 0), "{:.0f}")
    held_out = "Predicted relative gain on validation samples that the weights were not made from."
    yield _numbers("Held-out gain", held_out, verdict.held_out_gain, "{:+.3f}")
    yield _numbers("± error", "Its standard error.", verdict.standard_error, "{:.3f}")
    bound = f"Lower bound of the held-out gain at level {verdict.level:g}; a proof takes all of them above zero."
    yield _numbers("Bound", bound, verdict.lower_bound, "{:+.3f}")
    yield _numbers("In sample", "Gain under the same weights in sample: always too good.", verdict.together, "{:+.3f}")
    yield _numbers("Alone", "In-sample gain if no other class mattered.", verdict.alone, "{:+.2f}")
    price = "Trade-off price λ: how much the class holds the others back."
    yield _numbers("Price", price, np.where(verdict.present, verdict.prices, np.nan), "{:.2f}")
    needed = "About how many validation samples would prove its part, were its gain what it seems."
    if verdict.answer == "not proven":
        yield _numbers("Needed", needed, verdict.samples_needed, "{:.0f}")


def _of_result(result: ParetoResult) -> Iterator[Column]:
    yield _numbers("Before", "Accuracy in % of the model to start with.", 100 * result.before, "{:.1f}")
    yield _numbers("After", "Accuracy in % of the model handed back.", 100 * result.after, "{:.1f}")
    change = 100 * (result.after - result.before)
    yield _numbers("Change", "In points.", change, "{:+.1f}")
    refused = "Accuracy in % that the best reweighted model would have had, which was refused."
    yield _numbers("Refused", refused, 100 * result.refused, "{:.1f}")
    fall = "One-sided exact p-value of no fall; of each class alone."
    yield _numbers("p of a fall", fall, np.where(np.isnan(result.before), np.nan, result.p_values), "{:.2g}")


def _numbers(head: str, meaning: str, values: np.ndarray, form: str) -> Column:
    cells = []
    for value in map(float, values):
        if math.isnan(value):
            cells.append(Cell("–", None))
        elif math.isinf(value):
            cells.append(Cell("∞" if value > 0 else "−∞", 1e300 if value > 0 else -1e300))
        else:
            cells.append(Cell(form.format(value).replace("-", "−"), value))
    return Column(head, meaning, cells)


def suspects(run: Run) -> list[Suspect]:
    """The samples that harm most, with what they look like where it is known."""
    if run.influence is None:
        return []
    table = suspected_samples(run.influence, MOST_SUSPECTS)
    previews = {} if run.previews is None else run.previews.of
    found = []
    for row in np.flatnonzero(table.total < 0):
        preview = previews.get(int(table.index[row]))
        found.append(
            Suspect(
                index=int(table.index[row]),
                given=_label(run, int(table.given[row])),
                predicted=None if table.predicted is None else _label(run, int(table.predicted[row])),
                harms=int((table.influence[row] < 0).sum()),
                picture=None if preview is None or isinstance(preview, str) else png_data(preview),
                text=preview if isinstance(preview, str) else None,
            )
        )
    return found


def _label(run: Run, label: int) -> str:
    names = run.class_names
    return harmless(names[label], LONGEST_NAME) if 0 <= label < len(names) else str(label)


def how_computed(run: Run) -> dict[str, str]:
    """What the results were computed from, by name."""
    found: dict[str, Any] = {}
    if run.influence is not None:
        found |= _of_influence(run.influence)
    if run.verdict is not None:
        verdict = run.verdict
        found |= {"Budget": f"{verdict.budget:.0%} of the training mass may move", "Level": f"{verdict.level:g}"}
        found["Negligible gain"] = f"{verdict.min_gain:g}"
        found["First principal axis"] = f"{verdict.explained_variance_ratio[0]:.0%} of the variance"
        found["Distance from the trade-off plane"] = f"{verdict.hyperplane_distance:.2f} of 1"
    if run.weights is not None:
        weights = run.weights
        found["Weights"] = (
            f"{weights.values.min():.2f} to {weights.values.max():.2f}, {weights.moved:.1%} of the mass moved, "
            f"effective size {weights.effective_size:,.0f} of {len(weights):,}"
        )
        found |= {f"Weights: {name}": value for name, value in weights.metadata.items() if _plain(value)}
    if run.result is not None:
        found["Search"] = f"{run.result.epochs_spent} epochs in {len(run.result.trials)} trials"
        found["Best epoch"] = run.result.best_epoch
        found["Model handed back"] = run.result.ckpt_path
    return {name: harmless(str(value), 200) for name, value in found.items()}


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
