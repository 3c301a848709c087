"""What the arguments name: files of a run, categories."""

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lightning_pareto.command_line.output import tell
from lightning_pareto.storage.artifacts import ArtifactError
from lightning_pareto.storage.run_folders import (
    INFLUENCE_FILE,
    VERDICT_FILE,
    WEIGHTS_FILE,
    find_runs,
    influence_of_search,
)

FILES = {"influence": INFLUENCE_FILE, "verdict": VERDICT_FILE, "weights": WEIGHTS_FILE}
"""Names of results in the folder of a run."""


def find(path: Path, kind: str) -> Path:
    """The file of a kind: the path itself, or the one in that folder, in its ``pareto/``, or of the newest run below.

    Of a search it is the influence on the first of its measures, which its verdict is of. Where there are several runs
    in the folder or below it, one line on the standard error says which it is, and if a newer one lacks that kind.

    Raises:
        FileNotFoundError: if there is none.
    """
    name = FILES[kind]
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: give the folder of a run, or its {name}")
    if not path.is_dir():
        return path
    if (path / name).is_file():
        return path / name
    runs, newest = find_runs(path, lambda run: _file_of(run, kind) is not None)
    found = _file_of(runs[0], kind) if runs else None
    if found is None:
        raise FileNotFoundError(f"no {name} in {path} or below it: ParetoCallback writes it after a fit{_MAKE[kind]}")
    if runs[0] != newest:
        tell(f"the newest run, {newest}, has no {name}: that of an older one is taken, {runs[0]}")
    elif len(runs) > 1:
        tell(f"of {len(runs)} runs the newest: {newest}")
    return found


def _file_of(run: Path, kind: str) -> Path | None:
    path = run / FILES[kind]
    return path if path.is_file() else influence_of_search(run) if kind == "influence" else None


_MAKE = {"influence": "", "verdict": "", "weights": ", and lightning-pareto reweight the weights"}


def read_kind(path: Path) -> str:
    """What an artifact contains_results, from its head alone.

    Raises:
        ArtifactError: if it is no artifact.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            return str((file.metadata() or {}).get("kind", "no known kind"))
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not a valid safetensors file ({error})") from error


def chosen(names: Sequence[str], targets: Sequence[str] | None) -> list[int | str] | None:
    """Targets as typed: names where they are names, else numbers."""
    if targets is None:
        return None
    return [int(each) if each not in names and each.isdecimal() else each for each in targets]


def limits(values: Sequence[float] | None) -> float | Sequence[float] | None:
    """One number for all categories, or one for each."""
    return values[0] if values is not None and len(values) == 1 else values
