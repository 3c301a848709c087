"""The folder of a search: an interrupted search resumes in ``trials``, a finished one leaves its results there."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.storage.run_folders import FINISHED_FOLDER, RESULT_FILE, VERDICT_FILE

TRIALS = "trials"
BEST_FILE = "best.ckpt"


def finish(folder: Path, result: ParetoResult, verdict: ParetoVerdict) -> ParetoResult:
    """Write verdict and result, keep the chosen checkpoint as ``best.ckpt``, and move the trials to ``finished``.

    The moved trials lose their checkpoints. This is a collective operation if several processes are running. Nothing is
    ever removed at the beginning of a search, when processes may not know of each other yet.

    If the folder cannot be written, as on a full disk, a warning says so, and everything stays where it is.

    Returns:
        The result with the path of the checkpoint that is kept: the one in the folder, or the user's own.
    """
    chosen = Path(result.ckpt_path).resolve()
    inside = (folder / TRIALS).resolve() in chosen.parents
    kept = replace(result, ckpt_path=str((folder / BEST_FILE).resolve() if inside else chosen))
    try:
        _conclude(folder, kept, verdict, chosen if inside else None)
    except OSError as error:
        rank_zero_warn(f"the result could not be written to {folder} and is in memory only: {error}")
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
    return replace(result, ckpt_path=str(chosen)) if chosen.exists() else kept


@rank_zero_only
def _conclude(folder: Path, result: ParetoResult, verdict: ParetoVerdict, chosen: Path | None) -> None:
    """Whenever this is killed, either all trials are still there and the search can end again, or it has ended."""
    if chosen is not None:
        _keep(chosen, folder / BEST_FILE)
    verdict.save(folder / VERDICT_FILE)
    result.save(folder / RESULT_FILE)
    if (folder / FINISHED_FOLDER).exists():
        shutil.rmtree(folder / FINISHED_FOLDER)
    (folder / TRIALS).rename(folder / FINISHED_FOLDER)
    for path in (folder / FINISHED_FOLDER).rglob("*"):
        if path.suffix in (".ckpt", ".pt"):
            path.unlink()


def _keep(file: Path, target: Path) -> None:
    """Make ``target`` a hard link to the file, or a copy if the file system has no links."""
    temporary = target.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copy2(file, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # it remains if both were the same file already
