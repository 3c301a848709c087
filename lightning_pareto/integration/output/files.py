"""Writes the results of an analysis to a folder. A crash never leaves a verdict next to another fit's influence."""

import contextlib
from pathlib import Path

from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.report.analysis import Analysis
from lightning_pareto.storage.run_folders import INFLUENCE_FILE, OF_INFLUENCE, OUTCOME_FILE, STEP_FILE, VERDICT_FILE


def save_influence(influence: InfluenceMatrix, folder: Path) -> bool:
    """Write the influence to ``folder``, replacing an earlier influence and what belongs to it.

    Returns:
        Whether it worked. If not, the earlier files are unchanged, and a warning says so.
    """
    aside = {name: folder / f".{name}.replaced" for name in OF_INFLUENCE if (folder / name).exists()}
    moved: dict[str, Path] = {}
    try:
        for name in reversed(aside):  # the verdict first
            moved[name] = (folder / name).rename(aside[name])
        influence.save(folder / INFLUENCE_FILE)
    except OSError as error:
        with contextlib.suppress(OSError):
            for name, path in moved.items():
                path.rename(folder / name)
        _warn_of_memory(f"the influence could not be written to {folder}, or an old result not removed ({error})")
        return False
    with contextlib.suppress(OSError):
        for path in moved.values():
            path.unlink(missing_ok=True)
    return True


def save_analysis(analysis: Analysis, folder: Path) -> bool:
    """Write verdict, outcome and step next to their influence. Returns whether it worked; a warning says if not."""
    parts = {OUTCOME_FILE: analysis.outcome, STEP_FILE: analysis.after_step, VERDICT_FILE: analysis.verdict}
    try:
        for name, part in parts.items():
            if part is not None:
                part.save(folder / name)
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
