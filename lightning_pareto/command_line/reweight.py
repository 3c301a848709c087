"""``lightning-pareto reweight``: sample weights for a second fit."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_pareto.command_line.inputs import FILES, asked_or_own, chosen, find, limits
from lightning_pareto.command_line.output import say, say_json
from lightning_pareto.display.terminal import columns, harmless, harmless_line, padded
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.reweighting.reweight import reweight
from lightning_pareto.reweighting.weights import SampleWeights


def run(options: Any) -> int:
    """Write the weights and say what they are."""
    source = find(options.path, "influence")
    influence = InfluenceMatrix.load(source)
    weights = reweight(
        influence,
        targets=chosen(influence.category_names, options.targets),
        thresholds=limits(options.thresholds),
        budget=asked_or_own(options.budget, "budget", source, 0.2),
        method=options.method,
        return_mass=options.return_mass,
        max_weight=options.max_weight,
    )
    path = weights.save(options.output or source.parent / FILES["weights"])
    if options.json:
        say_json(described(weights, path))
    else:
        say(summary(weights, path))
    return 0


def described(weights: SampleWeights, path: Path) -> dict[str, Any]:
    """What was written, as nested mappings."""
    assert weights.predicted_gain is not None
    return {
        "weights": str(path.resolve()),
        "samples": len(weights),
        "moved": weights.moved,
        "effective_size": weights.effective_size,
        "left_out": int((weights.values == 0).sum()),
        "least": weights.values.min(),
        "largest": weights.values.max(),
        "predicted_gain": dict(zip(weights.category_names, weights.predicted_gain, strict=True)),
        "options": weights.metadata,
    }


def summary(weights: SampleWeights, path: Path) -> str:
    """The same in words."""
    assert weights.predicted_gain is not None
    names = [harmless(name) for name in weights.category_names]
    width = max(8, *map(columns, names))
    gains = [
        f"{padded(name, width)}  " + ("no validation samples" if np.isnan(gain) else f"{gain:+.3g}")
        for name, gain in zip(names, weights.predicted_gain, strict=True)
    ]
    return "\n".join(
        [
            f"{len(weights)} weights from {weights.values.min():.2f} to {weights.values.max():.2f}, "
            f"{(weights.values == 0).sum()} of them zero: {weights.moved:.1%} of the training mass is moved,",
            f"which leaves an effective size of {weights.effective_size:.0f} samples.",
            "",
            f"{'category':<{width}}  predicted drop of the validation measure, to first order",
            *gains,
            "in the units of the measure; the size is far too large on networks: trust order and sign",
            "",
            f"Written: {harmless_line(str(path))}",
            f"Next: ReweightedDataModule(datamodule, {str(path)!r})",
        ]
    )
