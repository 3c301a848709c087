"""The story of an analysis: the answer, the accuracy today, what was measured, what to do next, the evidence."""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from lightning_pareto.display.columns import Column, Columns, chosen_cells
from lightning_pareto.display.notebook import html_table
from lightning_pareto.display.terminal import NO_BREAK, listed, printable, text_table, wrapped
from lightning_pareto.evaluation.change import ClasswiseChange
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.pareto.wording import MOST_ROWS, asks_for_all, evidence, headline, target_names

if TYPE_CHECKING:
    from lightning_pareto.report.analysis import Analysis

FAR, NEAR = 4.0, 1.0
"""Times more validation samples that a proof may need: above the first, the model counts as at its ceiling."""


def text(analysis: "Analysis") -> str:
    """The whole story for a terminal of 80 columns."""
    verdict, outcome, step = analysis.verdict, analysis.outcome, analysis.step
    lines = [headline(verdict), *wrapped(" ".join(answer(verdict, step)), "")]
    if outcome is not None:
        cells = accuracy_cells(outcome, step, analysis.influence.class_names)
        lines += [*wrapped(accuracy_today(outcome)), "", *_rows(cells, outcome), ""]
    if step is not None:
        lines += [*wrapped(step_measured(step)), ""]
    following, code = next_step(verdict, step)
    return "\n".join(
        [*lines, *wrapped(f"Next: {following}"), *(f"    {line}" for line in code), "", *evidence(verdict)]
    )


def html(analysis: "Analysis") -> str:
    """The same for a notebook. The evidence is that of the verdict."""
    verdict, outcome, step = analysis.verdict, analysis.outcome, analysis.step
    notes, cells = [" ".join(answer(verdict, step))], {}
    if outcome is not None:
        notes.append(accuracy_today(outcome))
        cells = _chosen(accuracy_cells(outcome, step, analysis.influence.class_names), _lowest_first(outcome))
    if step is not None:
        notes.append(step_measured(step))
    following, code = next_step(verdict, step)
    first = html_table(headline(verdict), cells, [*notes, f"Next: {following}", *code], left=[MISTAKEN])
    return f"<div>{first}<details><summary>Evidence</summary>{verdict._repr_html_()}</details></div>"


def answer(verdict: ParetoVerdict, step: ClasswiseChange | None = None) -> tuple[str, ...]:
    """The verdict in a sentence or two, without numbers in unknown units. A measured step that disagrees is named."""
    who = "every class" if asks_for_all(verdict) else f"{target_names(verdict)}, while the others hold their floors"
    p_value = f"p = {verdict.p_value:.2g}".replace(" ", NO_BREAK)
    if np.isnan(verdict.p_value) and verdict.answer != "no":
        return (f"Nothing is proven: whether the model can still improve on {who} was not tested.",)
    if verdict.answer == "underfitted":
        return f"The model is not trained to its end: plain further training would help {who}.", "Train longer first."
    if verdict.answer == "yes":
        return (
            f"The model can still improve on {who} with these data: other weights of the training samples help, to "
            f"first order, also on validation samples that they were not made from ({p_value}).",
        )
    if verdict.answer == "no":
        return (
            f"No other weights of the training samples help {who}, not even on the samples that they are made from.",
            "As far as weights go, this is the ceiling of these data.",
        )
    return (
        f"It is not shown that the model can still improve on {who} with these data: other weights of the training "
        f"samples do not help beyond chance on validation samples that they were not made from ({p_value}).",
        _ceiling(verdict) if step is None or step.answer != "better" else DISAGREES,
    )


DISAGREES = "But one small step with such weights was measured to help, so this is not the ceiling."
"""Said where the verdict promises nothing, and the measured step helps."""


def _ceiling(verdict: ParetoVerdict) -> str:
    needed = verdict.samples_needed[verdict.targets & verdict.present]
    have = verdict.support[verdict.targets & verdict.present]
    if np.isfinite(needed).all() and (needed <= FAR * have).all():
        return "With a few times more validation samples this may still change."
    return "As far as weights go, the model looks as if it were at the ceiling of these data."


def accuracy_today(outcome: Outcome) -> str:
    """The mean and the lowest accuracy."""
    lowest = int(np.nanargmin(outcome.accuracy))
    return (
        f"Accuracy today, on {len(outcome.category):,} validation samples: {outcome.macro:.1%} in the mean over the "
        f"classes, {outcome.accuracy[lowest]:.1%} for the lowest ({printable(outcome.category_names[lowest])})."
    ).replace("%", NO_BREAK + "%")


MISTAKEN = "mostly mistaken for"
"""Heading of the column of mistakes."""

OUTCOME_COLUMNS: Columns[Outcome] = {
    "accuracy": Column("accuracy, %", "{:.1f}", "Share of samples predicted right.", lambda o: 100 * o.accuracy),
    "support": Column("samples", "{:.0f}", "Validation samples of the class.", lambda o: o.support),
}
"""What an outcome says about each category."""

STEP_COLUMN: Column[ClasswiseChange] = Column(
    "one step, points",
    "{:+.1f}",
    "Change of the accuracy by one small step, on samples that the step does not know.",
    lambda change: 100 * change.accuracy,
)


def accuracy_cells(outcome: Outcome, step: ClasswiseChange | None, class_names: Sequence[str]) -> dict[str, list[str]]:
    """Accuracy, samples, most frequent mistake and change by the step of each category, by heading."""
    cells = {
        "class": [printable(name) for name in outcome.category_names],
        **chosen_cells(OUTCOME_COLUMNS, list(OUTCOME_COLUMNS), outcome),
    }
    if outcome.predicted is not None:
        cells[MISTAKEN] = [mistake(found, class_names, 16) for found in outcome.mistaken_for]
    if step is not None:
        marks = np.where(step.lost(), "▼ ", np.where(step.risen(), "▲ ", ""))
        changes = zip(marks, STEP_COLUMN.cells(step), strict=True)
        cells[STEP_COLUMN.heading] = [mark + change for mark, change in changes]
    return cells


def mistake(found: tuple[int, float] | None, class_names: Sequence[str], longest: int) -> str:
    """A most frequent mistake in words, see :attr:`Outcome.mistaken_for`."""
    if found is None:
        return "–"
    label, share = found
    return f"{printable(class_names[label], longest) if class_names else label} ({share:.0%})"


def _lowest_first(outcome: Outcome) -> Sequence[int]:
    order: list[int] = np.argsort(outcome.accuracy, kind="stable").tolist()  # NaN last
    return order


def _chosen(cells: Mapping[str, Sequence[str]], rows: Sequence[int]) -> dict[str, list[str]]:
    return {heading: [column[row] for row in rows] for heading, column in cells.items()}


def _rows(cells: Mapping[str, Sequence[str]], outcome: Outcome) -> list[str]:
    """The table, from the lowest accuracy; of many categories only those."""
    order = _lowest_first(outcome)
    more = [f"… and {len(order) - MOST_ROWS} more with a higher accuracy"] if len(order) > MOST_ROWS else []
    return text_table(_chosen(cells, order[:MOST_ROWS]), left=[MISTAKEN]) + more


def step_measured(step: ClasswiseChange) -> str:
    """What the small step changed, in accuracy points."""
    low, high = (100 * end for end in step.macro_interval)
    risen, fallen = (list(compress(step.category_names, found)) for found in (step.risen(), step.lost()))
    parts = [f"{listed(names, 5)} {verb}" for names, verb in ((risen, "up"), (fallen, "down")) if names]
    mean = {True: ["the mean up"], False: ["the mean down"] if step.p_mean_loss <= step.level / 2 else []}
    parts = [*mean[step.p_gain <= step.level / 2], *parts]
    beyond = f"Beyond chance: {', '.join(parts)}" if parts else "Nothing changes beyond chance"
    return (
        "Measured: one small step with weights made from the other half of the validation samples changes the mean "
        f"accuracy by {100 * step.macro:+.1f} points (95{NO_BREAK}% interval {low:+.1f} to {high:+.1f}). {beyond}. A "
        "whole fit with weights goes further, for better or worse."
    )


def next_step(verdict: ParetoVerdict, step: ClasswiseChange | None) -> tuple[str, list[str]]:
    """What to do, and the code for it."""
    search = ["ParetoTuner(make_trainer).fit(model, datamodule)"]
    if verdict.answer == "underfitted":
        return "Train longer, and analyse again.", []
    if verdict.answer == "yes":
        targets = "" if asks_for_all(verdict) else ", targets=[…]"
        return (
            "Fit again with the weights that this promises. Or let the search do it: it also tries remedies that need "
            "no other fit, judges all of them, and returns none that harms a class.",
            [f"weights = reweight(influence{targets})", "ReweightedDataModule(datamodule, weights)", *search],
        )
    if step is not None and step.answer == "better":
        return (
            "The step helps although the verdict promises nothing. The search makes such steps and judges them.",
            search,
        )
    return (
        "Keep the weights as they are. Look at the suspected samples, and compare with a fit on training and "
        "validation data together.",
        ["suspected_samples(influence, dataset=…)"],
    )
