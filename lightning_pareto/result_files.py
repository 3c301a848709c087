"""Where the results of a fit or a search lie: the names of their files."""

from pathlib import Path

INFLUENCE_FILE = "influence.safetensors"
VERDICT_FILE = "verdict.safetensors"
WEIGHTS_FILE = "weights.safetensors"
RESULT_FILE = "result.safetensors"
SAMPLES_FILE = "samples.safetensors"

FINISHED = "finished"
"""Where the folder of a search keeps its trials, one of them for each measure of the influence that it began with."""


def influence_of_search(folder: Path) -> Path | None:
    """The influence that a finished search began with and its verdict is of: that on the first of its measures."""
    found = folder.glob(f"{FINISHED}/influence_on_*/{INFLUENCE_FILE}")
    return min(found, key=lambda path: path.stat().st_mtime, default=None)
