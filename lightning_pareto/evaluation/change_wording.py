"""What a change says: its columns, its headline and its text."""

from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.columns import Column, Columns, number
from lightning_pareto.display.terminal import listed, printable, printable_line, text_table, wrapped
from lightning_pareto.evaluation.paired_tests import COVERAGE
from lightning_pareto.pareto.admissible import Float

if TYPE_CHECKING:
    from lightning_pareto.evaluation.change import ClasswiseChange


def _p_loss(change: "ClasswiseChange") -> Float:
    return np.where(change.before.support > 0, change.p_loss, np.nan)


COLUMNS: "Columns[ClasswiseChange]" = {
    "before": Column("before", "{:.1f}", "Accuracy in % of the earlier model.", lambda c: 100 * c.before.accuracy),
    "after": Column("after", "{:.1f}", "Accuracy in % of the later model.", lambda c: 100 * c.after.accuracy),
    "change": Column("change", "{:+.1f}", "Change of the accuracy in points.", lambda c: 100 * c.accuracy),
    "low": Column("from", "{:+.1f}", "Lower end of the interval of the change.", lambda c: 100 * c.interval[0]),
    "high": Column("to", "{:+.1f}", "Upper end of the interval of the change.", lambda c: 100 * c.interval[1]),
    "p_loss": Column("p, fall", "{:.2g}", "One-sided p-value of no fall beyond the tolerance.", _p_loss),
    "support": Column("samples", "{:.0f}", "Samples that both models predicted.", lambda c: c.before.support),
}
"""What a change says about each category, for text, HTML, notebooks and JSON."""


def headline(change: "ClasswiseChange") -> str:
    """The answer in one sentence."""
    beyond = f"{_more(change)}, beyond chance".removeprefix(",")
    fall = _sentence(change, change.lost(), "fall", change.p_mean_loss) + beyond
    gain = _sentence(change, change.risen(), "rise", change.p_gain) + " beyond chance"
    changes = f"rises beyond chance, or falls{beyond}" if change.macro_tolerance else "changes beyond chance"
    return {
        "better": f"Better: {gain}, and no category falls{beyond}.",
        "harmful": f"Harmful: {fall}.",
        "trade-off": f"A trade-off: {gain}, but {fall}.",
        "no difference": f"No difference shown: neither a category nor the mean {changes}.",
    }[change.answer]


def text(change: "ClasswiseChange") -> str:
    """The headline, a table by category from the lowest accuracy to the highest, and what it means."""
    order = np.argsort(change.before.accuracy)  # NaN last
    summaries = {
        "before": (change.before.macro, np.nanmin(change.before.accuracy)),
        "after": (change.after.macro, np.nanmin(change.after.accuracy)),
        "change": (change.macro, change.worst),
        "low": (change.macro_interval[0], change.worst_interval[0]),
        "high": (change.macro_interval[1], change.worst_interval[1]),
    }
    columns = {"category": [*(printable(change.category_names[k], 30) for k in order), "mean", "lowest"]}
    for name, column in COLUMNS.items():
        cells = column.cells(change)
        last = [number(100 * value, column.form) for value in summaries.get(name, ())] or ["", ""]
        columns[column.heading] = [*(cells[k] for k in order), *last]
    marks = np.where(change.lost(), "▼", np.where(change.risen(), "▲", ""))
    columns[""] = [*marks[order], "", ""]
    more = _more(change)
    notes = [
        f"Accuracy in %, with {COVERAGE:.0%} intervals of the change in points. ▼ and ▲ mark falls{more} and "
        f"rises beyond chance, for all categories together (Holm, level {change.level / 2:g}).",
        f"The mean rises with p = {change.p_gain:.2g} and falls{more} with p = {change.p_mean_loss:.2g} (level "
        f"{change.level / 2:g}). The lowest accuracy rises with p = {change.p_worst_rise:.2g}. Its interval is "
        "rough, and it takes no part in the answer.",
    ]
    return "\n".join([*wrapped(printable_line(headline(change))), "", *text_table(columns), "", *wrapped(*notes)])


def _more(change: "ClasswiseChange") -> str:
    return " by more than tolerated" if change.macro_tolerance else ""


def _sentence(change: "ClasswiseChange", found: npt.NDArray[np.bool_], verb: str, p_mean: float) -> str:
    """Which categories, and perhaps the mean, fall or rise beyond chance."""
    names = list(compress(change.category_names, found))
    parts = [*([listed(names, 4)] if names else []), *(["the mean"] if p_mean <= change.level / 2 else [])]
    return f"{' and '.join(parts)} {verb}{'s' if len(parts) == 1 and len(names) < 2 else ''}"
