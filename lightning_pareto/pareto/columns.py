"""What a verdict says about each category, declared once for text, HTML, pandas, loggers and the command line."""

from typing import TYPE_CHECKING

import numpy as np

from lightning_pareto.display.columns import Column, Columns, values_of

if TYPE_CHECKING:
    from lightning_pareto.pareto.result import ParetoVerdict

GAIN = "{:+.3f}"

COLUMNS: "Columns[ParetoVerdict]" = {
    "support": Column(
        "samples", "{:.0f}", "Validation samples of the category.", lambda v: np.where(v.present, v.support, 0)
    ),
    "held_out_gain": Column(
        "held-out gain",
        GAIN,
        "Predicted relative gain on validation samples that the weights were not made from.",
        lambda v: v.held_out_gain,
    ),
    "standard_error": Column("± error", "{:.3f}", "Standard error of the held-out gain.", lambda v: v.standard_error),
    "lower_bound": Column(
        "lower bound",
        GAIN,
        "Lower confidence bound of the held-out gain. For a proof, every bound has to be above zero.",
        lambda v: v.lower_bound,
    ),
    "together": Column(
        "in sample",
        GAIN,
        "Gain under the headroom's weights on the samples they were made from: always too good.",
        lambda v: v.together,
    ),
    "alone": Column("alone", "{:+.2f}", "Gain in sample if no other category mattered.", lambda v: v.alone),
    "prices": Column(
        "price",
        "{:.2f}",
        "Shadow price λ: how much the category holds the others back.",
        lambda v: np.where(v.present, v.prices, np.nan),
    ),
    "samples_needed": Column(
        "needed",
        "{:.0f}",
        "Roughly how many validation samples would prove the gain, if it is as large as it looks.",
        lambda v: v.samples_needed,
    ),
    "floors": Column(
        "floor", GAIN, "Least relative gain asked of a category that is not a target.", lambda v: v.floors
    ),
    "scale": Column("scale", "{:.3g}", "Mean absolute influence, the unit of relative gains.", lambda v: v.scale),
    "drift": Column("drift", GAIN, "Relative gain of plain further training.", lambda v: v.drift),
}


def all_values(verdict: "ParetoVerdict") -> dict[str, np.ndarray]:
    """Values of every column by name, (K,) each, after whether each category is a target and present."""
    return {"target": verdict.targets, "present": verdict.present, **values_of(COLUMNS, verdict)}
