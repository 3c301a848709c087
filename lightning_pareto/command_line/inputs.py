"""Resolves arguments: files of a run, targets and limits."""

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lightning_pareto.command_line.output import notify
from lightning_pareto.storage.artifacts import ArtifactError
from lightning_pareto.storage.run_folders import (
    INFLUENCE_FILE,
    VERDICT_FILE,
    WEIGHTS_FILE,
    find_runs,
    influence_of_search,
)

FILES = {"influence": INFLUENCE_FILE, "verdict": VERDICT_FILE, "weights": WEIGHTS_FILE}
"""File names in the folder of a run, by kind."""


def find(path: Path, kind: str) -> Path:
    """Find the file of a kind: the path itself, or in that folder, in its ``pareto/``, or of the newest run below it.

    For a search, this is the influence on its first measure, which its verdict was computed from. If there are several
    runs, one line on the standard error says which one is used, and whether a newer one lacks this file.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    name = FILES[kind]
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: pass the folder of a run, or its {name}")
    if not path.is_dir():
        return path
    if (path / name).is_file():
        return path / name
    runs, newest = find_runs(path, lambda run: _file_of(run, kind) is not None)
    found = _file_of(runs[0], kind) if runs else None
    if found is None:
        maker = "lightning-pareto reweight writes it" if kind == "weights" else "ParetoCallback writes it after a fit"
        raise FileNotFoundError(f"no {name} in {path} or below it: {maker}")
    if runs[0] != newest:
        notify(f"using the older run {runs[0]}, because the newest, {newest}, has no {name}")
    elif len(runs) > 1:
        notify(f"using the newest of {len(runs)} runs: {newest}")
    return found


def _file_of(run: Path, kind: str) -> Path | None:
    path = run / FILES[kind]
    return path if path.is_file() else influence_of_search(run) if kind == "influence" else None


def kind_of(path: Path) -> str:
    """The kind of an artifact, one of :data:`FILES`, from its header.

    Raises:
        ArtifactError: for any other file.
    """
    try:
        with safe_open(str(find(path, "influence")), framework="numpy") as file:
            kind = str((file.metadata() or {}).get("kind", "no known kind"))
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not a valid safetensors file ({error})") from error
    if kind not in FILES:
        raise ArtifactError(f"expected a file of kind {', '.join(FILES)}, found {path} of kind {kind!r}")
    return kind


def chosen(names: Sequence[str], targets: Sequence[str] | None) -> list[int | str] | None:
    """Targets as typed: names if they are names of categories, otherwise numbers."""
    if targets is None:
        return None
    return [int(each) if each not in names and each.isdecimal() else each for each in targets]


def limits(values: Sequence[float] | None) -> float | Sequence[float] | None:
    """One number for all categories, or one per category."""
    return values[0] if values is not None and len(values) == 1 else values
