"""One file format for every result: named arrays in safetensors, everything else as JSON in its metadata.

Nothing is ever executed on loading, and a file is written whole or not at all.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FORMAT_VERSION = 1


class ArtifactError(ValueError):
    """A file is not a readable artifact of the expected kind."""


def save_artifact(
    path: str | os.PathLike[str], kind: str, arrays: dict[str, np.ndarray], metadata: dict[str, Any]
) -> Path:
    """Write ``arrays`` and ``metadata`` to ``path`` atomically, creating its folder.

    The bytes go to a temporary file beside the target, which then takes its place: a reader sees the old file, the
    whole new one, or none.

    Args:
        path: target file.
        kind: what the file holds, checked on loading (for instance ``"influence"``).
        arrays: named arrays.
        metadata: JSON-serialisable description.

    Returns:
        The path written.

    Raises:
        OSError: if the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"kind": kind, "format_version": str(FORMAT_VERSION), "metadata": json.dumps(metadata)}
    payload = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=header)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def load_artifact(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read an artifact written by :func:`save_artifact`.

    Args:
        path: the file.
        kind: the kind expected.

    Returns:
        The named arrays and the metadata.

    Raises:
        ArtifactError: if the file is truncated, of another kind, or of a newer format.
        FileNotFoundError: if there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {kind} artifact at {path}")
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not a whole safetensors file ({error}); compute it again") from error
    if header.get("kind") != kind:
        raise ArtifactError(f"{path} holds {header.get('kind', 'no known kind')!r}, expected {kind!r}")
    version = int(header["format_version"])
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, this lightning_pareto reads up to {FORMAT_VERSION}: "
            "pip install --upgrade lightning_pareto"
        )
    return arrays, json.loads(header["metadata"])
