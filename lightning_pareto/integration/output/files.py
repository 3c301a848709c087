"""Writes influence and verdict to a results folder. A crash never leaves a verdict next to another fit's influence."""

import contextlib
from pathlib import Path

from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.pareto.verdict import ParetoVerdict
from lightning_pareto.storage.run_folders import INFLUENCE_FILE, VERDICT_FILE


def save_influence(influence: InfluenceMatrix, folder: Path) -> bool:
    """Write the influence to ``folder``, replacing an earlier influence and its verdict.

    Returns:
        Whether it worked. If not, the earlier files are unchanged, and a warning says so.
    """
    verdict, aside = folder / VERDICT_FILE, folder / f".{VERDICT_FILE}.replaced"
    try:
        judged = verdict.exists()
        if judged:
            verdict.rename(aside)
    except OSError as error:
        _warn_of_memory(f"nothing was written to {folder}, because the old verdict could not be removed ({error})")
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
    """Write the verdict next to its influence. Returns whether it worked; a warning says if not."""
    try:
        verdict.save(folder / VERDICT_FILE)
    except OSError as error:
        rank_zero_warn(
            f"the verdict could not be written to {folder} ({error}) and is in memory only. Write it elsewhere in this "
            "process: callback.verdict.save(path)"
        )
        return False
    return True


def _warn_of_memory(why: str) -> None:
    rank_zero_warn(
        f"{why}. Influence and verdict are in memory only. Write them elsewhere in this process: "
        "callback.influence.save(path) and callback.verdict.save(path)"
    )
