"""Shows a verdict in the trainer's loggers: figures, a table of the classes, and the report."""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch

from lightning_pareto.integration.output.loggers import Cell, Exhibits, show_with
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.pareto.columns import COLUMNS
from lightning_pareto.pareto.verdict import ParetoVerdict
from lightning_pareto.storage.run_folders import VERDICT_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = ("held_out_gain", "standard_error", "lower_bound", "together", "alone", "prices", "support")
"""Columns of the table of classes."""

FEW_CLASSES = 24
"""Number of classes up to which a picture of all pairs is readable."""

MOST_CLASSES = 200
"""Number of classes up to which a picture with a row for each is readable. With more, there is only the table."""


def log_verdict(trainer: pl.Trainer, verdict: ParetoVerdict) -> list[Any]:
    """Log the verdict's numbers to ``callback_metrics`` and every logger; returns the loggers that failed."""
    values = {
        "pareto/improvable": float(verdict.improvable),
        "pareto/underfitted": float(verdict.underfitted),
        "pareto/headroom": verdict.headroom,
        "pareto/p_value": verdict.p_value,
        **{
            f"pareto/held_out_gain/{name}": float(gain)
            for name, gain in zip(verdict.category_names, verdict.held_out_gain, strict=True)
        },
    }
    return log_values(trainer, values, "the verdict's numbers")


def log_values(trainer: pl.Trainer, values: dict[str, float], what: str) -> list[Any]:
    """Log the finite values to ``callback_metrics`` and every logger.

    Returns:
        The loggers that failed. Each failure becomes a warning.
    """
    failed = []
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
    for logger in trainer.loggers:
        try:
            logger.log_metrics(values, step=trainer.global_step)
        except Exception as error:  # a service may be down; the results are safe by now
            rank_zero_warn(f"{type(logger).__name__} did not accept {what}: {error}")
            failed.append(logger)
    return failed


def show_verdict(trainer: pl.Trainer, verdict: ParetoVerdict, folder: Path, failed: Sequence[Any] = ()) -> None:
    """Show figures, a table of the classes and the report in the loggers that can, on rank zero.

    Without matplotlib there are no figures, without Jinja2 no report. Any failure becomes a warning.

    Args:
        trainer: after its fit.
        verdict: what to show.
        folder: where the results were saved, and where the report is written.
        failed: loggers to leave out.
    """
    try:
        working = [logger for logger in trainer.loggers if not any(logger is each for each in failed)]
        shows = [(logger, show) for logger in working if (show := show_with(logger)) is not None]
        if not shows:
            return
        headings, rows = table_of(verdict)
        exhibits = Exhibits(
            figures=figures_of(verdict), headings=headings, rows=rows, report=_report(folder), step=trainer.global_step
        )
    except Exception as error:  # the results are safe by now
        rank_zero_warn(f"no figures for the loggers: {type(error).__name__}: {error}")
        return
    for logger, show in shows:
        try:
            show(logger, exhibits)
        except Exception as error:
            rank_zero_warn(f"{type(logger).__name__} did not accept the verdict's figures: {error}")


def figures_of(verdict: ParetoVerdict) -> "dict[str, Figure]":
    """Figures of a verdict by name; none without matplotlib."""
    count = len(verdict.category_names)
    if importlib.util.find_spec("matplotlib") is None or count > MOST_CLASSES:
        return {}
    from lightning_pareto.report.figures import plot_exchange_rates, plot_headroom

    figures = {"pareto/headroom": plot_headroom(verdict)[0]}
    if count <= FEW_CLASSES:
        figures["pareto/exchange_rates"] = plot_exchange_rates(verdict)[0]
    return figures


def table_of(verdict: ParetoVerdict) -> tuple[list[str], list[list[Cell]]]:
    """Headings and rows of the table of classes; None where there is no value."""
    columns = {COLUMNS[name].heading: COLUMNS[name].values(verdict) for name in TABLE}
    rows: list[list[Cell]] = [
        [name, *(float(value) if np.isfinite(value) else None for value in row)]
        for name, *row in zip(verdict.category_names, *columns.values(), strict=True)
    ]
    return ["class", *columns], rows


def _report(folder: Path) -> Path | None:
    """The report of the results in the folder; None if there are none, or a package is missing."""
    missing = any(importlib.util.find_spec(name) is None for name in ("matplotlib", "jinja2"))
    if missing or not (folder / VERDICT_FILE).is_file():
        return None
    from lightning_pareto.report import write_report

    return write_report(folder)
