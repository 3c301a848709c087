"""``lightning-pareto reweight``: sample weights for a second fit."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pareto.command_line.inputs import FILES, chosen, find, limits
from lightning_pareto.command_line.output import as_json, say
from lightning_pareto.display.terminal import printable, printable_line, text_table, wrapped
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.wording import NO_FOLDS
from lightning_pareto.reweighting.reweight import UNPROVEN, reweight
from lightning_pareto.reweighting.weights import PREDICTED, SampleWeights


def run(options: Any) -> int:
    """Write the weights and describe them."""
    source = find(options.path, "influence")
    influence = InfluenceMatrix.load(source)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the verdict is")  # the summary says so
        weights = reweight(
            influence,
            targets=chosen(influence.category_names, options.targets),
            thresholds=limits(options.thresholds),
            budget=options.budget,
            method=options.method,
            return_mass=options.return_mass,
            max_weight=options.max_weight,
        )
    path = weights.save(options.output or source.parent / FILES["weights"])
    say(as_json(as_mapping(weights, path)) if options.json else summary(weights, path))
    return 0


def as_mapping(weights: SampleWeights, path: Path) -> dict[str, Any]:
    """The weights as nested mappings of plain values."""
    return {
        "weights": str(path.resolve()),
        "samples": len(weights),
        "moved": weights.moved,
        "effective_size": weights.effective_size,
        "left_out": int((weights.values == 0).sum()),
        "least": weights.values.min(),
        "largest": weights.values.max(),
        "predicted_gain": dict(zip(weights.category_names, np.asarray(weights.predicted_gain), strict=True)),
        "options": weights.metadata,
    }


def summary(weights: SampleWeights, path: Path) -> str:
    """The weights in words."""
    predicted = np.asarray(weights.predicted_gain)
    gains = ["no validation samples" if np.isnan(gain) else f"{gain:+.3g}" for gain in predicted]
    columns = {"category": [printable(name) for name in weights.category_names], "predicted gain": gains}
    budget = f" with a budget of {weights.metadata['budget']:.0%}" if "budget" in weights.metadata else ""
    lines = [
        *wrapped(
            f"{len(weights)} weights from {weights.values.min():.2f} to {weights.values.max():.2f}, "
            f"{(weights.values == 0).sum()} of them zero. They move {weights.moved:.1%} of the training mass{budget}. "
            f"The effective size is {weights.effective_size:.0f} samples."
        ),
        "",
        *text_table(columns),
        *wrapped(PREDICTED),
        "",
        f"Written: {printable_line(str(path))}",
    ]
    answer = weights.metadata["verdict"]
    if answer is None:
        return "\n".join([*lines, *wrapped(NO_FOLDS)])
    if answer in UNPROVEN:
        return "\n".join([*lines, *wrapped(f"The verdict is {answer!r}: {UNPROVEN[answer]}.")])
    return "\n".join([*lines, f"Next: ReweightedDataModule(datamodule, {str(path)!r})"])
