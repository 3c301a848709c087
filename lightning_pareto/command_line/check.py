"""``lightning-pareto check``: prints the verdict and returns it as an exit code."""

from dataclasses import replace
from typing import Any

import numpy as np

from lightning_pareto.command_line.inputs import chosen, find, limits
from lightning_pareto.command_line.output import as_json, say
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.columns import all_values
from lightning_pareto.pareto.demand import chosen_categories
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.pareto.verdict import check_pareto
from lightning_pareto.report.analysis import Analysis, measured_in

CODES = {"yes": 0, "not proven": 10, "no": 11, "underfitted": 12}


def run(options: Any) -> int:
    """Print the verdict and return its exit code."""
    path = find(options.path, "influence")
    influence = InfluenceMatrix.load(path)
    verdict = check_pareto(
        influence,
        budget=options.budget,
        level=options.level,
        min_gain=options.min_gain,
        targets=chosen(influence.category_names, options.targets),
        floors=limits(options.floors),
    )
    analysis = Analysis(influence, verdict, path.parent, *measured_in(path.parent))
    asked = chosen_categories(influence.category_names, influence.metadata.get("targets"))
    if (
        verdict.budget != influence.asked("budget", verdict.budget)
        or (asked & verdict.present != verdict.targets).any()
    ):
        analysis = replace(analysis, after_step=None)  # the step was made for another question
    say(as_json(as_mapping(verdict)) if options.json else str(analysis))
    return 0 if options.exit_zero else exit_code(verdict)


def exit_code(verdict: ParetoVerdict) -> int:
    """The exit code that says what the verdict is."""
    return CODES[verdict.answer]


def as_mapping(verdict: ParetoVerdict) -> dict[str, Any]:
    """The verdict as nested mappings of plain values."""
    low, high = verdict.worst_interval if np.isfinite(verdict.p_value) else (None, None)
    names = ("answer", "improvable", "underfitted", "headroom", "p_value", "budget", "level", "min_gain")
    columns = {"category": verdict.category_names, **all_values(verdict)}
    return {
        **{name: getattr(verdict, name) for name in names},
        "worst_held_out_gain": {"low": low, "high": high},
        "categories": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        "samples": {
            "help every category": verdict.regions.beneficial,
            "harm every category": verdict.regions.harmful,
            "trade off": verdict.regions.trade_off,
        },
        "explained_variance_ratio": verdict.explained_variance_ratio,
        "hyperplane_distance": verdict.hyperplane_distance,
    }
