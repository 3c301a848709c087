"""The verdict in words, for a terminal of 80 columns."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from lightning_pareto.display.columns import number
from lightning_pareto.display.terminal import NO_BREAK, listed, printable, text_table, wrapped
from lightning_pareto.pareto.columns import COLUMNS
from lightning_pareto.pareto.significance import ENOUGH_SAMPLES, LEAST_FOLDS, LEAST_SAMPLES

if TYPE_CHECKING:
    from lightning_pareto.pareto.result import ParetoVerdict

MOST_ROWS = 12
"""Categories shown in full. Of more categories, the worst are shown."""

TEXT = ("held_out_gain", "standard_error", "alone", "prices")
"""Columns of the printed table."""

MOST_REASONS = 6
"""Categories listed as standing in the way of a proof."""

NO_FOLDS = (
    f"With fewer than {LEAST_FOLDS} validation folds, held-out gains and their errors are unknown, and nothing is "
    "proven. Use folds=8, the default."
)

TOO_FEW_SAMPLES = f"Fewer than {ENOUGH_SAMPLES} validation samples in total prove nothing."

UNDERFITTED = "UNDERFITTED: plain further training would help every category. Train longer first."


def describe(verdict: ParetoVerdict) -> str:
    """The answer, the reasons, a row for each category, and what to do next."""
    lines = [headline(verdict), *evidence(verdict)]
    if verdict.answer == "yes":
        targets = "" if asks_for_all(verdict) else ", targets=[...]"
        lines += wrapped(f"Next: weights = reweight(influence{targets}), then fit again with these weights.")
    return "\n".join(lines)


def evidence(verdict: ParetoVerdict) -> list[str]:
    """The reasons, a row for each category, and what the numbers mean."""
    regions = verdict.regions
    paragraphs = [
        "Gain: predicted drop of the validation measure, in units of the category's mean absolute influence. "
        "Alone: the gain in sample if no other category mattered. Price: how much the category holds the others back.",
        f"Training samples: {regions.beneficial:.0%} help every category, {regions.harmful:.0%} harm every category, "
        f"{regions.trade_off:.0%} help some and harm others.",
        f"The paper's diagnostics: the first principal axis explains {verdict.explained_variance_ratio[0]:.0%} of the "
        f"variance; distance from the trade-off plane {verdict.hyperplane_distance:.2f} (0 to 1).",
        "",
        "This is a first-order statement about this model. It says whether there is something to gain. Only a second "
        "fit shows how much of it is kept, and by which categories.",
    ]
    return [*_reasons(verdict), "", *_table(verdict), "", *wrapped(*paragraphs)]


def asks_for_all(verdict: ParetoVerdict) -> bool:
    """Whether every category with validation samples has to gain."""
    return bool((verdict.targets | ~verdict.present).all())


def headline(verdict: ParetoVerdict) -> str:
    """The first line of a verdict."""
    return f"Pareto improvement possible: {verdict.answer.upper()}"


def target_names(verdict: ParetoVerdict) -> str:
    """The categories that have to gain, as a list for a sentence."""
    return listed(compress(verdict.category_names, verdict.targets))


def obstacles(verdict: ParetoVerdict) -> list[tuple[int, str]]:
    """Numbers of the categories that stand in the way of a proof and what each lacks, the worst first."""
    needed = verdict.samples_needed
    rows = []
    for k in np.argsort(np.where(np.isnan(needed), -np.inf, -needed), kind="stable"):
        if np.isinf(needed[k]) and np.isfinite(verdict.standard_error[k]):
            rows.append((int(k), "does not gain held out" if verdict.targets[k] else "does not hold its floor"))
        elif np.isfinite(needed[k]) and needed[k] > verdict.support[k]:
            least = f" (at least {LEAST_SAMPLES})" if needed[k] <= LEAST_SAMPLES else ""
            rows.append((int(k), f"{verdict.support[k]:.0f} validation samples, needs about {needed[k]:.0f}{least}"))
    return rows


def _reasons(verdict: ParetoVerdict) -> list[str]:
    asked = "" if asks_for_all(verdict) else f"Asked for {target_names(verdict)}; the others must hold their floors. "
    moved = f" ({verdict.moved:.0%} are moved already, by the weights of this fit)" if verdict.moved >= 0.005 else ""
    reasons = [
        f"{asked}Moving at most {verdict.budget:.0%} of the training mass{moved}: headroom {verdict.headroom:.3f} in "
        "sample.",
        NO_FOLDS if np.isnan(verdict.p_value) else _held_out(verdict),
    ]
    if np.isinf(verdict.standard_error).any():
        reasons.append(f"A category in fewer than {LEAST_FOLDS} validation folds proves nothing: add samples of it.")
    if np.nansum(verdict.support) < ENOUGH_SAMPLES and np.isfinite(verdict.support).all():
        reasons.append(TOO_FEW_SAMPLES)
    lines = wrapped(*reasons)
    rows = [f"  {printable(verdict.category_names[k])}: {what}" for k, what in obstacles(verdict)]
    if verdict.answer == "not proven" and rows:
        lines += ["Not proven because of (samples needed if the gain is what it seems):", *rows[:MOST_REASONS]]
        lines += [f"  … and {len(rows) - MOST_REASONS} more"] if len(rows) > MOST_REASONS else []
    return lines + wrapped(UNDERFITTED) if verdict.underfitted else lines


def _held_out(verdict: ParetoVerdict) -> str:
    worst, (low, high) = verdict.worst, verdict.worst_interval
    everybody = asks_for_all(verdict)
    p_value = f"p = {verdict.p_value:.2g}".replace(" ", NO_BREAK)
    return (
        f"Held out, the worst {'category' if everybody else 'target'} ({printable(verdict.category_names[worst])}) "
        f"gains {verdict.held_out_gain[worst]:+.3f}; {1 - 2 * verdict.level:.0%} interval of the least gain "
        f"{low:+.3f} to {high:+.3f}; "
        f"{p_value} at level {verdict.level:g}{'' if everybody else ', the floors included'}."
    )


def _table(verdict: ParetoVerdict) -> list[str]:
    """A row for each category; of many categories, the worst."""
    shown, more = np.arange(len(verdict.category_names)), []
    if len(shown) > MOST_ROWS:
        bound = verdict.lower_bound - verdict.bar
        ranked = np.lexsort((verdict.held_out_gain, np.where(np.isfinite(bound), bound, -np.inf), ~verdict.present))
        known = int(verdict.present.sum())
        shown = ranked[:known][:MOST_ROWS]
        if known > MOST_ROWS:
            more.append(f"… and {known - MOST_ROWS} more, whose gain is more certain")
        if known < len(ranked):
            more.append(f"… and {len(ranked) - known} without validation samples")
    columns = {"category": [printable(name) for name in verdict.category_names]}
    columns |= {COLUMNS[name].heading: COLUMNS[name].cells(verdict) for name in TEXT}
    columns[COLUMNS["held_out_gain"].heading] = [_held_out_cell(verdict, k) for k in range(len(verdict.present))]
    if not asks_for_all(verdict):
        floors = zip(verdict.targets, verdict.floors, strict=True)
        columns["asked"] = ["gain" if target else number(floor, COLUMNS["floors"].form) for target, floor in floors]
    return text_table({heading: [cells[k] for k in shown] for heading, cells in columns.items()}) + more


def _held_out_cell(verdict: ParetoVerdict, k: int) -> str:
    if not verdict.present[k]:
        return "no validation samples"
    gain, error = verdict.held_out_gain[k], verdict.standard_error[k]
    if np.isnan(gain):
        return "unknown"
    return "too few samples" if np.isinf(error) else COLUMNS["held_out_gain"].form.format(gain)
