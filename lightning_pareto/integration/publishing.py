"""Results to the disk and to the loggers."""

import math
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_pareto.integration.results import INFLUENCE_FILE, VERDICT_FILE, Analysis
from lightning_pareto.pareto.verdict import ParetoVerdict


def save(analysis: Analysis, folder: Path) -> bool:
    """Write influence and verdict to ``folder``; returns whether it worked, with a warning if it did not."""
    try:
        analysis.influence.save(folder / INFLUENCE_FILE)
        analysis.verdict.save(folder / VERDICT_FILE)
    except OSError as error:
        rank_zero_warn(f"no results could be written to {folder}, they are in memory only: {error}")
        return False
    return True


def log(trainer: pl.Trainer, verdict: ParetoVerdict) -> None:
    """Give the verdict's figures to ``callback_metrics`` and every logger; one that fails is warned of."""
    values = {
        "pareto/improvable": float(verdict.improvable),
        "pareto/headroom": verdict.headroom,
        "pareto/p_value": verdict.p_value,
        **{
            f"pareto/held_out_gain/{name}": float(gain)
            for name, gain in zip(verdict.class_names, verdict.held_out_gain, strict=True)
        },
    }
    log_values(trainer, values, "the verdict's figures")


def log_values(trainer: pl.Trainer, values: dict[str, float], what: str) -> None:
    """Give the finite ones of some values to ``callback_metrics`` and every logger; one that fails is warned of."""
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
    for logger in trainer.loggers:
        try:
            logger.log_metrics(values, step=trainer.global_step)
        except Exception as error:  # a service may be away; the results are safe by now
            rank_zero_warn(f"{type(logger).__name__} did not take {what}: {error}")
