"""The folder that a fit's results go to, chosen before it so that nothing of an earlier one is replaced unasked."""

import os
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_pareto.integration.processes import shard_of
from lightning_pareto.result_files import INFLUENCE_FILE, RECORD_FILE, RUN_FOLDER, VERDICT_FILE, folders_of_run

_RESULTS = (INFLUENCE_FILE, VERDICT_FILE, RECORD_FILE)


def results_folder(trainer: pl.Trainer, module: pl.LightningModule, dirpath: Path | None) -> Path:
    """Choose the folder; every process has to call it.

    Args:
        trainer: at the start of its fit.
        module: what it fits.
        dirpath: what the user says. By default ``pareto`` under the trainer's log directory or, where an earlier fit
            has left results in it, as without a logger, ``pareto_1`` and so on. A fit that goes on from a checkpoint
            goes on with the last of them, unless there is a verdict in it already.

    Returns:
        The folder, which need not be there.

    Raises:
        OSError: if ``dirpath`` is given and cannot be written.
        OtherProcessError: if the first process found that.
    """
    home = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
    folder = dirpath or _unused(home, goes_on=trainer.ckpt_path is not None)
    with shard_of(trainer, module).agreement("check before the fit"):
        reason = why_not_writable(folder) if trainer.is_global_zero else None
        if reason and dirpath is not None:
            raise OSError(f"results cannot be written to dirpath={str(dirpath)!r}: {reason}. Give another folder")
        if reason:
            rank_zero_warn(f"results will be in memory only, they cannot be written to {folder}: {reason}")
    return folder


def why_not_writable(folder: Path) -> str | None:
    """What keeps a folder from being made and written, as far as it can be known without writing; None for nothing."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        return f"{there} is not a folder"
    return (
        None if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written (a read-only disk, or its rights)"
    )


def _unused(home: Path, goes_on: bool) -> Path:
    newest = folders_of_run(home)[0]
    if not any((newest / name).exists() for name in _RESULTS) or (goes_on and not (newest / VERDICT_FILE).exists()):
        return newest
    number = 1 if newest.name == RUN_FOLDER else int(newest.name.rpartition("_")[2]) + 1
    folder = home / f"{RUN_FOLDER}_{number}"
    rank_zero_info(f"{newest} holds the results of an earlier fit, those of this one go to {folder}")
    return folder
