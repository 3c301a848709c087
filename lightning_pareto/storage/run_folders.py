"""Where the results of a fit or a search lie: the names of their files, and which of several runs is the newest."""

import re
from collections.abc import Callable
from pathlib import Path

INFLUENCE_FILE = "influence.safetensors"
VERDICT_FILE = "verdict.safetensors"
WEIGHTS_FILE = "weights.safetensors"
RESULT_FILE = "result.safetensors"
SAMPLES_FILE = "samples.safetensors"
RECORD_FILE = "corrections.json"

RUN_FOLDER = "pareto"
"""Where a fit's results lie in its log directory; ``pareto_1`` and so on where those of earlier fits lay there."""

FINISHED = "finished"
"""Where the folder of a search keeps its trials, one of them for each measure of the influence that it began with."""


RESULTS = (INFLUENCE_FILE, VERDICT_FILE, RESULT_FILE, RECORD_FILE, WEIGHTS_FILE)
"""What a fit or a search leaves, and the weights that are made of it."""


def holds(folder: Path, names: tuple[str, ...] = RESULTS) -> bool:
    """Whether there is one of these files in a folder, as one that cannot be read is taken to have."""
    try:
        return any((folder / name).is_file() for name in names)
    except PermissionError:
        return True


def folders_of_run(home: Path) -> list[Path]:
    """All in a log directory that hold results, the newest first, and at last ``pareto``, which need not be there."""
    named = (re.fullmatch(rf"{RUN_FOLDER}_([1-9][0-9]*)", path.name) for path in home.glob(f"{RUN_FOLDER}_*"))
    numbers = sorted((int(match[1]) for match in named if match), reverse=True)
    folders = [home / f"{RUN_FOLDER}_{number}" for number in numbers]
    return [*filter(holds, folders), home / RUN_FOLDER]


def runs_with(folder: Path, has: Callable[[Path], bool]) -> tuple[list[Path], Path | None]:
    """The runs that have what is looked for, of those in a folder, else of those anywhere below it.

    Args:
        folder: a run, its log directory, or what several lie below.
        has: whether a run has it.

    Returns:
        Their folders, the newest first, and that of the newest run, which may lack what is looked for; None for no run.
    """
    near = [place for place in (folder, *folders_of_run(folder)) if holds(place)]
    found = [run for run in near if has(run)]
    if found:
        return found, near[0]
    below = _runs_below(folder)
    return [run for run in below if has(run)], next(iter(near or below), None)


def _runs_below(folder: Path) -> list[Path]:
    """Runs by the age of what they left themselves; weights may be made of an old one, and date those without else."""
    written: dict[Path, float] = {}
    for path in (path for name in (INFLUENCE_FILE, VERDICT_FILE, RESULT_FILE) for path in folder.rglob(name)):
        written[run_of(path)] = max(written.get(run_of(path), 0.0), path.stat().st_mtime)
    for path in folder.rglob(WEIGHTS_FILE):
        written.setdefault(run_of(path), path.stat().st_mtime)
    return sorted(written, key=lambda run: written[run], reverse=True)


def run_of(path: Path) -> Path:
    """The folder of the run that a file is of; that of a search has those of its trials below it."""
    trials = path.parent.parent
    return trials.parent if trials.name == FINISHED else path.parent


def influence_of_search(folder: Path) -> Path | None:
    """The influence that a finished search began with and its verdict is of: that on the first of its measures."""
    found = folder.glob(f"{FINISHED}/influence_on_*/{INFLUENCE_FILE}")
    return min(found, key=lambda path: path.stat().st_mtime, default=None)
