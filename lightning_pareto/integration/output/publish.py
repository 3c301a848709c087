"""Results to the disk and to the loggers."""

import contextlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_pareto.display.terminal import harmless_line
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.output.last_fit import Analysis
from lightning_pareto.integration.output.loggers import LoggerAdapter, adapter_for
from lightning_pareto.integration.output.loggers.base import Cell
from lightning_pareto.pareto.verdict import ParetoVerdict
from lightning_pareto.storage.run_folders import INFLUENCE_FILE, VERDICT_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW_CLASSES = 24
"""Classes up to which a picture of all pairs of them can be read."""

MOST_CLASSES = 200
"""Classes up to which a picture with a row for each can; of more there is the table."""


def save_influence(influence: InfluenceMatrix, folder: Path) -> bool:
    """Write the influence to ``folder``, in place of one there and of the verdict on that; returns whether it worked.

    Where it did not, both are there as they were, and a warning says so. Never does a verdict lie beside an influence
    that it is not of, whenever this is killed.
    """
    verdict, aside = folder / VERDICT_FILE, folder / f".{VERDICT_FILE}.replaced"
    try:
        judged = verdict.exists()
        if judged:
            verdict.rename(aside)
    except OSError as error:
        _warn_of_memory(f"nothing was written to {folder}, as the old verdict there could not be removed ({error})")
        return False
    try:
        influence.save(folder / INFLUENCE_FILE)
    except OSError as error:
        with contextlib.suppress(OSError):
            if judged:
                aside.rename(verdict)
        _warn_of_memory(f"the influence could not be written to {folder} ({error})")
        return False
    with contextlib.suppress(OSError):
        aside.unlink(missing_ok=True)
    return True


def save_verdict(verdict: ParetoVerdict, folder: Path) -> bool:
    """Write the verdict beside its influence; returns whether it worked, with a warning if it did not."""
    try:
        verdict.save(folder / VERDICT_FILE)
    except OSError as error:
        rank_zero_warn(
            f"the verdict could not be written to {folder} ({error}) and is in memory only: in this process "
            "callback.verdict.save(path) writes it elsewhere"
        )
        return False
    return True


def _warn_of_memory(why: str) -> None:
    rank_zero_warn(
        f"{why}. Influence and verdict are in memory only: in this process callback.influence.save(path) and "
        "callback.verdict.save(path) write them elsewhere"
    )


def told(verdict: ParetoVerdict, folder: Path | None) -> str:
    """What is printed: the verdict, and where the results lie, None for nowhere."""
    where = "" if folder is None else f"Influence and verdict: {harmless_line(str(folder))}"
    return f"\n{verdict}\n\n{where}\n"


def log(trainer: pl.Trainer, verdict: ParetoVerdict) -> list[Any]:
    """Give the verdict's figures to ``callback_metrics`` and every logger; returns those that failed, see below."""
    values = {
        "pareto/improvable": float(verdict.improvable),
        "pareto/headroom": verdict.headroom,
        "pareto/p_value": verdict.p_value,
        **{
            f"pareto/held_out_gain/{name}": float(gain)
            for name, gain in zip(verdict.category_names, verdict.held_out_gain, strict=True)
        },
    }
    return log_values(trainer, values, "the verdict's figures")


def log_values(trainer: pl.Trainer, values: dict[str, float], what: str) -> list[Any]:
    """Give the finite ones of some values to ``callback_metrics`` and every logger.

    Returns:
        The loggers that failed, each of which was warned of.
    """
    failed = []
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
    for logger in trainer.loggers:
        try:
            logger.log_metrics(values, step=trainer.global_step)
        except Exception as error:  # a service may be away; the results are safe by now
            rank_zero_warn(f"{type(logger).__name__} did not take {what}: {error}")
            failed.append(logger)
    return failed


def show(trainer: pl.Trainer, analysis: Analysis, folder: Path, failed: Sequence[Any] = ()) -> None:
    """Give figures, a table of the classes and the report to the loggers that can show them, on rank zero.

    Without matplotlib there are no figures, and without Jinja2 no report. Whatever goes wrong becomes a warning.

    Args:
        trainer: after its fit.
        analysis: what was found.
        folder: where it was saved, and where the report is written.
        failed: loggers to leave out.
    """
    try:
        adapters = [(each, adapter_for(each)) for each in trainer.loggers if not any(each is one for one in failed)]
        if not any(adapter for _, adapter in adapters):
            return
        figures, columns_and_rows = figures_of(analysis), table_of(analysis.verdict)
        report = _report(folder)
    except Exception as error:  # the results are safe by now
        rank_zero_warn(f"there are no figures for the loggers: {type(error).__name__}: {error}")
        return
    for logger, adapter in adapters:
        try:
            if adapter is not None:
                _show_with(adapter, figures, columns_and_rows, report, trainer.global_step)
        except Exception as error:
            rank_zero_warn(f"{type(logger).__name__} did not take the verdict's pictures: {error}")


def figures_of(analysis: Analysis) -> "dict[str, Figure]":
    """The figures of an analysis by name, none without matplotlib."""
    count = len(analysis.verdict.category_names)
    if importlib.util.find_spec("matplotlib") is None or count > MOST_CLASSES:
        return {}
    from lightning_pareto.report.figures import plot_exchange_rates, plot_headroom

    figures = {"headroom": plot_headroom(analysis.verdict)[0]}
    if count <= FEW_CLASSES:
        figures["exchange_rates"] = plot_exchange_rates(analysis.verdict)[0]
    return figures


def table_of(verdict: ParetoVerdict) -> tuple[list[str], list[list[Cell]]]:
    """What the verdict says of every class, as columns and rows; None where there is no value."""
    columns = {
        "held-out gain": verdict.held_out_gain,
        "standard error": verdict.standard_error,
        "lower bound": verdict.lower_bound,
        "gain in sample": verdict.together,
        "alone": verdict.alone,
        "price": verdict.prices,
        "validation samples": verdict.support,
    }
    values = np.stack(list(columns.values()), axis=1)
    rows: list[list[Cell]] = [
        [name, *(float(value) if np.isfinite(value) else None for value in row)]
        for name, row in zip(verdict.category_names, values, strict=True)
    ]
    return ["class", *columns], rows


def _report(folder: Path) -> Path | None:
    """The report of what lies in the folder; None if nothing does, or a package is absent."""
    absent = any(importlib.util.find_spec(name) is None for name in ("matplotlib", "jinja2"))
    if absent or not (folder / VERDICT_FILE).is_file():
        return None
    from lightning_pareto.report import write_report

    return write_report(folder)


def _show_with(
    adapter: LoggerAdapter,
    figures: "dict[str, Figure]",
    columns_and_rows: tuple[list[str], list[list[Cell]]],
    report: Path | None,
    step: int,
) -> None:
    for name, figure in figures.items():
        adapter.figure(f"pareto/{name}", figure, step)
    adapter.table("pareto/classes", *columns_and_rows, step)
    if report is not None:
        adapter.html("pareto/report", report, step)
