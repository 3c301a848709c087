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
from lightning_pareto.influence.label_quality import label_quality
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.pareto.wording import MOST_ROWS, asks_for_all, evidence, headline, target_names

if TYPE_CHECKING:
    from lightning_pareto.report.analysis import Analysis

FEWEST_MISTAKES = 2
"""Fewer mistakes of one kind are not worth naming."""

EVIDENCE = "Evidence. The verdict is about the loss of each class, the table above about accuracy."


def text(analysis: "Analysis") -> str:
    """The whole story for a terminal of 80 columns."""
    verdict, outcome, step = analysis.verdict, analysis.outcome, analysis.step
    lines = [headline(verdict), *wrapped(" ".join(answer(verdict, step, analysis.influence)), "")]
    if outcome is not None:
        cells = accuracy_cells(outcome, step, analysis.influence.class_names)
        lines += [*wrapped(accuracy_today(outcome)), "", *_rows(cells, outcome), ""]
    if step is not None:
        lines += [*wrapped(step_measured(step)), ""]
    for sentence, code in next_steps(verdict, step, analysis.influence):
        lines += [*wrapped(sentence), *(f"    {line}" for line in code)]
    return "\n".join([*lines, "", *wrapped(EVIDENCE), *evidence(verdict)])


def html(analysis: "Analysis") -> str:
    """The same for a notebook. The evidence is that of the verdict."""
    verdict, outcome, step = analysis.verdict, analysis.outcome, analysis.step
    notes, cells = [" ".join(answer(verdict, step, analysis.influence))], {}
    if outcome is not None:
        notes.append(accuracy_today(outcome))
        cells = _chosen(accuracy_cells(outcome, step, analysis.influence.class_names), lowest_first(outcome))
    if step is not None:
        notes.append(step_measured(step))
    for sentence, code in next_steps(verdict, step, analysis.influence):
        notes += [sentence, *code]
    first = html_table(headline(verdict), cells, notes, left=[MISTAKEN])
    return f"<div>{first}<details><summary>Evidence</summary>{verdict._repr_html_()}</details></div>"


def answer(
    verdict: ParetoVerdict, step: ClasswiseChange | None = None, influence: InfluenceMatrix | None = None
) -> tuple[str, str]:
    """The answer in one sentence without numbers, and what it rests on. A measured step that disagrees comes first."""
    own = influence is not None and influence.metadata.get("categories") == "own"
    every = "every category" if own else "every class"
    who = every if asks_for_all(verdict) else f"{target_names(verdict)}, while the others hold their floors"
    p_value = f"p = {verdict.p_value:.2g}".replace(" ", NO_BREAK)
    if verdict.answer == "underfitted":
        return "The model is not trained to its end.", f"Plain further training would help {who}. Train longer first."
    if verdict.answer == "yes":
        harms = step is not None and step.answer in ("harmful", "trade-off")
        return f"The model can still improve on {who}, to first order.", (
            "Other weights of the training samples lower the loss, also on validation samples that they were not made "
            f"from ({p_value})." + " But one small step was measured to do harm, see below." * harms
        )
    if np.isnan(verdict.p_value) and verdict.answer != "no":
        shown = f"Whether other weights of the training samples help {who} was not tested, for lack of folds"
    elif verdict.answer == "no":
        shown = f"No weights of the training samples help {who} at once, not even on the samples they are made from"
    else:
        shown = f"Other weights of the training samples do not help {who} at once beyond chance ({p_value})"
    if step is not None and step.answer == "better":
        return "The model can still improve on average.", f"One small step was measured to help. {shown}."
    first = f"It is not shown that the model can still improve on {who}."
    if step is None:
        return first, f"{shown}."
    missed, count = max(0.0, 100 * step.macro_interval[1]), f"{len(step.before.category):,} validation samples"
    more = f"With {count}, a gain of up to {missed:.1f} points in the mean can be missed."
    return first, f"{shown}, and neither does one small step. {more}"


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
        cells[STEP_COLUMN.heading] = [mark + cell for mark, cell in zip(marks, STEP_COLUMN.cells(step), strict=True)]
    return cells


def mistake(found: tuple[int, int, int], class_names: Sequence[str], longest: int) -> str:
    """A most frequent mistake in words, see :attr:`Outcome.mistaken_for`."""
    label, count, errors = found
    if count < FEWEST_MISTAKES:
        return "–"
    return f"{printable(class_names[label], longest) if class_names else label} ({count} of {errors} errors)"


def lowest_first(outcome: Outcome) -> Sequence[int]:
    """Numbers of the categories by their accuracy; those without samples last."""
    order: list[int] = np.argsort(outcome.accuracy, kind="stable").tolist()  # NaN last
    return order


def _chosen(cells: Mapping[str, Sequence[str]], rows: Sequence[int]) -> dict[str, list[str]]:
    return {heading: [column[row] for row in rows] for heading, column in cells.items()}


def _rows(cells: Mapping[str, Sequence[str]], outcome: Outcome) -> list[str]:
    """The table, from the lowest accuracy; of many categories only those."""
    order = lowest_first(outcome)
    more = [f"… and {len(order) - MOST_ROWS} more"] if len(order) > MOST_ROWS else []
    return text_table(_chosen(cells, order[:MOST_ROWS]), left=[MISTAKEN]) + more


def step_measured(step: ClasswiseChange) -> str:
    """What the small step changed, in accuracy points."""
    low, high = (100 * end for end in step.macro_interval)
    return (
        "Measured: weights were made from one half of the validation samples, the model took one small second-order "
        "step on the weighted training loss, and the other half measured it, both ways round. The mean accuracy "
        f"changes by {100 * step.macro:+.1f} points (95{NO_BREAK}% interval {low:+.1f} to {high:+.1f}). "
        f"{_beyond_chance(step)}"
    )


def _beyond_chance(step: ClasswiseChange) -> str:
    """What rises and falls beyond chance, and the largest fall that may be chance."""
    found = []
    for verb, classes, p_mean in (("rises", step.risen(), step.p_gain), ("falls", step.lost(), step.p_mean_loss)):
        names = [*(["the mean"] if p_mean <= step.level / 2 else []), *compress(step.category_names, classes)]
        if names:
            found.append(f"What {verb} beyond chance: {listed(names, 6)}.")
    sentences = found or ["Nothing changes beyond chance."]
    if step.p_gain <= step.level / 2:
        sentences.append("Plain further training may have a part in that. A whole fit with weights moves further.")
    worst = int(np.nanargmin(step.accuracy))
    lost = round(-step.accuracy[worst] * step.before.support[worst])
    if lost > 0 and not step.lost()[worst]:
        name = printable(step.category_names[worst])
        fall = f"{100 * step.accuracy[worst]:+.1f} points, {lost} of {step.before.support[worst]} samples"
        sentences.append(f"The largest fall, of {name} ({fall}), may be chance.")
    return " ".join(sentences)


def next_steps(
    verdict: ParetoVerdict, step: ClasswiseChange | None, influence: InfluenceMatrix | None
) -> list[tuple[str, list[str]]]:
    """What to do, in sentences with the code for each."""
    search = ["ParetoTuner(make_trainer).fit(model, datamodule)"]
    found: list[tuple[str, list[str]]] = []
    if verdict.answer == "underfitted":
        found.append(("Next: train longer, and analyse again.", []))
    elif verdict.answer == "yes":
        targets = "" if asks_for_all(verdict) else ", targets=[…]"
        fit = "trainer.fit(model, datamodule=ReweightedDataModule(datamodule, weights))"
        unsure = " and test it before you rely on it," * (step is None or step.answer != "better")
        weights = [f"weights = reweight(influence{targets})", fit]
        found.append((f"Next: train a fresh model with other weights,{unsure}", weights))
        found.append(("or let the search do it, which also tries cheaper remedies and tests each for harm:", search))
    elif step is not None and step.answer == "better":
        found.append(("Next: let the search make such steps. It tests each for harm to any class:", search))
    else:
        found.append(("Next: leave the weights alone.", []))
    if influence is not None and (suspects := suspected_labels(influence)):
        count = f"{suspects:,} of {len(influence.labels):,} training labels"
        look = f"suspected_samples(influence, {suspects}, dataset=train_dataset)"
        found.append((f"Influence and model speak against {count}. Look at them:", [look]))
    return found


def suspected_labels(influence: InfluenceMatrix) -> int:
    """How many labels both influence and the model's prediction speak against; 0 if the predictions are unknown."""
    if influence.predicted is None:
        return 0
    return int(((label_quality(influence) < 0) & (influence.predicted != influence.labels)).sum())
