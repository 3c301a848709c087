"""Where the results of a fit or a search lie: the names of their files."""

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


def folders_of_run(home: Path) -> list[Path]:
    """All of these in a log directory, the newest first; ``pareto``, the last, need not be there."""
    numbers = [path.name.removeprefix(f"{RUN_FOLDER}_") for path in home.glob(f"{RUN_FOLDER}_*")]
    newest = sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)
    return [*(home / f"{RUN_FOLDER}_{number}" for number in newest), home / RUN_FOLDER]


def influence_of_search(folder: Path) -> Path | None:
    """The influence that a finished search began with and its verdict is of: that on the first of its measures."""
    found = folder.glob(f"{FINISHED}/influence_on_*/{INFLUENCE_FILE}")
    return min(found, key=lambda path: path.stat().st_mtime, default=None)
