"""File names of results, and how to find the folders of runs and searches."""

import re
from collections.abc import Callable
from pathlib import Path

INFLUENCE_FILE = "influence.safetensors"
OUTCOME_FILE = "outcome.safetensors"
STEP_FILE = "step.safetensors"
VERDICT_FILE = "verdict.safetensors"
WEIGHTS_FILE = "weights.safetensors"
RESULT_FILE = "result.safetensors"
SAMPLES_FILE = "samples.safetensors"
RECORD_FILE = "corrections.json"

RUN_FOLDER = "pareto"
"""Folder of a fit's results in its log directory. If it holds an earlier fit, ``pareto_1`` is used, and so on."""

FINISHED_FOLDER = "finished"
"""Folder of a finished search's trials. The trial ``influence_*`` holds the influence."""

OF_INFLUENCE = (OUTCOME_FILE, STEP_FILE, VERDICT_FILE)
"""Files that belong to an influence, in the order in which they are written."""

RESULT_FILES = (INFLUENCE_FILE, VERDICT_FILE, RESULT_FILE, RECORD_FILE, WEIGHTS_FILE)
"""Files written by a fit or a search, and the weights computed from them."""


def contains_results(folder: Path, names: tuple[str, ...] = RESULT_FILES) -> bool:
    """Whether the folder contains any of these files. An unreadable folder counts as if it did."""
    try:
        return any((folder / name).is_file() for name in names)
    except PermissionError:
        return True


def run_folders_in(home: Path) -> list[Path]:
    """All folders with results in a log directory, newest first, and finally ``pareto`` even if it does not exist."""
    matches = (re.fullmatch(rf"{RUN_FOLDER}_([1-9][0-9]*)", path.name) for path in home.glob(f"{RUN_FOLDER}_*"))
    numbers = sorted((int(match[1]) for match in matches if match), reverse=True)
    folders = [home / f"{RUN_FOLDER}_{number}" for number in numbers]
    return [*filter(contains_results, folders), home / RUN_FOLDER]


def find_runs(folder: Path, matches: Callable[[Path], bool]) -> tuple[list[Path], Path | None]:
    """Find the runs that match in a folder (a run, its log directory, or any folder above).

    If none does, searches anywhere below the folder.

    Returns:
        Folders of the matching runs, newest first, and the folder of the newest run, which may not match. The latter is
        None if there are no runs.
    """
    near = [run for run in (folder, *run_folders_in(folder)) if contains_results(run)]
    found = [run for run in near if matches(run)]
    if found:
        return found, near[0]
    below = _runs_below(folder)
    return [run for run in below if matches(run)], next(iter(near or below), None)


def _runs_below(folder: Path) -> list[Path]:
    """Runs by date, newest first. Weights may be much newer, so they only date a run that has nothing else."""
    written: dict[Path, float] = {}
    for name in (INFLUENCE_FILE, VERDICT_FILE, RESULT_FILE, WEIGHTS_FILE):
        for path in folder.rglob(name):
            trials = path.parent.parent  # the files of a search's trials belong to the search
            run = trials.parent if trials.name == FINISHED_FOLDER else path.parent
            if name != WEIGHTS_FILE or run not in written:
                written[run] = max(written.get(run, 0.0), path.stat().st_mtime)
    return sorted(written, key=lambda run: written[run], reverse=True)


def influence_of_search(folder: Path) -> Path | None:
    """File of the influence that a finished search's verdict was computed from."""
    return next(folder.glob(f"{FINISHED_FOLDER}/influence_*/{INFLUENCE_FILE}"), None)
