"""``lightning-pareto check``: the verdict, and an exit code that says it."""

from typing import Any

import numpy as np

from lightning_pareto.command_line.inputs import asked_or_own, chosen, find, limits
from lightning_pareto.command_line.output import say, say_json
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.pareto.verdict import check_pareto

CODES = {"yes": 0, "not proven": 10, "no": 11}

UNDERFITTED = 12


def run(options: Any) -> int:
    """Print the verdict and return its code."""
    source = find(options.path, "influence")
    influence = InfluenceMatrix.load(source)
    verdict = check_pareto(
        influence,
        budget=asked_or_own(options.budget, "budget", source, 0.2),
        level=asked_or_own(options.level, "level", source, 0.05),
        min_gain=options.min_gain,
        targets=chosen(influence.category_names, options.targets),
        floors=limits(options.floors),
    )
    if options.json:
        say_json(described(verdict))
    else:
        say(str(verdict))
    return 0 if options.exit_zero else code_of(verdict)


def code_of(verdict: ParetoVerdict) -> int:
    """The exit code that says the verdict."""
    return UNDERFITTED if verdict.improvable and verdict.underfitted else CODES[verdict.answer]


def described(verdict: ParetoVerdict) -> dict[str, Any]:
    """The verdict as nested mappings, numbers as they are."""
    low, high = verdict.worst_interval if np.isfinite(verdict.p_value) else (None, None)
    return {
        "answer": verdict.answer,
        "improvable": verdict.improvable,
        "underfitted": verdict.underfitted,
        "headroom": verdict.headroom,
        "p_value": verdict.p_value,
        "worst_held_out_gain": {"low": low, "high": high},
        "budget": verdict.budget,
        "level": verdict.level,
        "min_gain": verdict.min_gain,
        "categories": rows(verdict),
        "samples": {
            "help every category": verdict.regions.beneficial,
            "harm every category": verdict.regions.harmful,
            "trade off": verdict.regions.trade_off,
        },
        "explained_variance_ratio": verdict.explained_variance_ratio,
        "hyperplane_distance": verdict.hyperplane_distance,
    }


def rows(verdict: ParetoVerdict) -> list[dict[str, Any]]:
    """A row for each category."""
    columns = (
        "held_out_gain",
        "standard_error",
        "lower_bound",
        "alone",
        "together",
        "prices",
        "scale",
        "drift",
        "support",
        "samples_needed",
        "floors",
    )
    values = {name: getattr(verdict, name) for name in columns}
    return [
        {"category": name, "target": bool(verdict.targets[k]), "present": bool(verdict.present[k])}
        | {column: float(array[k]) for column, array in values.items()}
        for k, name in enumerate(verdict.category_names)
    ]
