"""The folder of a search: an interrupted one goes on in ``trials``, what one that has ended leaves lies beside it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.storage.run_folders import FINISHED_FOLDER, RESULT_FILE, VERDICT_FILE

TRIALS = "trials"
BEST_FILE = "best.ckpt"


def finish(folder: Path, result: ParetoResult, verdict: ParetoVerdict) -> ParetoResult:
    """Write verdict and result, and put the checkpoint and what is left of the trials in their places.

    The checkpoint becomes ``best.ckpt``, and the trials, without checkpoints, move to ``finished``.

    A collective operation where processes are up. Nothing is ever removed at the beginning of a search, when processes
    may not know of each other yet.

    Where the folder cannot be written, as on a full disk, a warning says so, and everything is left where it is.

    Returns:
        The result with the path of the checkpoint that is kept: that in the folder, or the user's own.
    """
    chosen = Path(result.ckpt_path).resolve()
    inside = (folder / TRIALS).resolve() in chosen.parents
    kept = replace(result, ckpt_path=str((folder / BEST_FILE).resolve() if inside else chosen))
    try:
        _conclude(folder, kept, verdict, chosen if inside else None)
    except OSError as error:
        rank_zero_warn(f"the result could not be written to {folder}, it is in memory only: {error}")
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
    return replace(result, ckpt_path=str(chosen)) if chosen.exists() else kept


@rank_zero_only
def _conclude(folder: Path, result: ParetoResult, verdict: ParetoVerdict, chosen: Path | None) -> None:
    """Whenever this is killed, either the trials are all there and the search can end again, or it has ended."""
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
    """Let ``target`` be the same file, or a copy where the file system has no links."""
    temporary = target.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copy2(file, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # it stays where both were the same file already
