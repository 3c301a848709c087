"""One file format for every result: named arrays in safetensors, everything else as JSON in its metadata.

Nothing is ever executed on loading, a file is written whole or not at all, and whatever bytes a file has, reading it
gives a result that fits together or an :class:`ArtifactError`.
"""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lightning_pareto.display.terminal import printable

FORMAT_VERSION = 1

LARGEST_HEADER = 2**24
"""Bytes of names and metadata that are written, and read: far more than any result has."""

ABANDONED = 3600.0
"""Seconds after which a temporary file is taken for that of a writer that was killed."""


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
        OSError: if the folder cannot be written or the disk is full; nothing is left behind.
        TypeError: if the metadata are not JSON-serialisable.
        ValueError: if they are larger than would be read again.
    """
    path = Path(path)
    try:
        described = json.dumps(metadata)
    except TypeError as error:
        raise TypeError(f"metadata must be texts, numbers, lists and dicts, to be kept as JSON: {error}") from error
    if 2 * len(described) > LARGEST_HEADER:  # escaped once more
        raise ValueError(f"metadata of {len(described)} bytes are too large for a file; keep them elsewhere")
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = {"kind": kind, "format_version": str(FORMAT_VERSION), "metadata": described}
    payload = save(arrays, metadata={**header, "digest": _digest(arrays, header)})
    write_whole(path, payload)
    remove_temporaries(path.parent, path.name, older=ABANDONED)
    return path


def write_whole(path: Path, payload: bytes) -> None:
    """Write a file that is there whole or not at all, creating its folder.

    Raises:
        OSError: if it cannot be written; nothing is left behind.
    """
    try:
        _replace(path, payload)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}: nothing was written", str(path)) from error


def _replace(path: Path, payload: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(_mode_of(path))
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        raise


def _mode_of(path: Path) -> int:
    """Permissions that the file has, or that a new one gets here: temporary files are for their owner alone."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def remove_temporaries(folder: Path, name: str, older: float = 0.0) -> None:
    """Remove what writers that were killed have left beside a file.

    Args:
        folder: where they are.
        name: of the file they were to become; a shell pattern.
        older: only those that have not been written to for so many seconds.
    """
    for path in folder.glob(f".{name}.*"):
        with contextlib.suppress(OSError):  # another process may be faster
            if time.time() - path.stat().st_mtime >= older:
                path.unlink()


def load_artifact(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read an artifact written by :func:`save_artifact`.

    Args:
        path: the file.
        kind: the kind expected.

    Returns:
        The named arrays and the metadata. Whoever makes a result of them does so within :func:`fitting_together`.

    Raises:
        ArtifactError: if the file is truncated, changed since it was written, of another kind, of a newer format, or
            its header is too large.
        FileNotFoundError: if there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} artifact at {path}")
    _check_header_size(path)
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = file.metadata() or {}
            _check_kind(path, header, kind)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, TypeError, KeyError) as error:  # the latter for types of numbers that numpy lacks
        told = printable(str(error), 200)
        raise ArtifactError(f"{path} is not a whole safetensors file ({told}); compute it again") from error
    digest = header.pop("digest", None)
    if digest != _digest(arrays, header):
        raise ArtifactError(f"{path} was changed since it was written, by a failing disk perhaps; compute it again")
    with fitting_together(path):
        metadata = json.loads(header["metadata"])
        return arrays, {**metadata}


@contextlib.contextmanager
def fitting_together(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of parts that are missing or do not fit together into an :class:`ArtifactError`.

    Args:
        path: of the file, for the error.
    """
    try:
        yield
    except ArtifactError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ArtifactError(
            f"{path} was damaged, or written by another version: its parts do not fit together "
            f"({type(error).__name__}: {printable(str(error), 200)}); compute it again"
        ) from error


def _digest(arrays: dict[str, np.ndarray], header: dict[str, str]) -> str:
    """Of everything in the file, 32 hexadecimal digits: against accidents, not against anyone's intent."""
    digest = hashlib.blake2b(digest_size=16)
    for name, text in sorted(header.items()):
        digest.update(f"{name}={text};".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _check_header_size(path: Path) -> None:
    """Refuse a header before it is parsed."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > LARGEST_HEADER:
        raise ArtifactError(
            f"{path} is not a whole safetensors file of this package: its header claims {size} bytes, at most "
            f"{LARGEST_HEADER} are read; compute it again"
        )


def _check_kind(path: Path, header: dict[str, str], kind: str) -> None:
    if header.get("kind") != kind:
        raise ArtifactError(f"{path} holds {header.get('kind', 'no known kind')[:40]!r}, expected {kind!r}")
    version = header.get("format_version", "")
    if not (version.isascii() and version.isdigit()) or len(version) > 9:
        raise ArtifactError(f"{path} has no format version that is known, found {version[:20]!r}; compute it again")
    if int(version) > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, this lightning_pareto reads up to {FORMAT_VERSION}: "
            "pip install --upgrade lightning_pareto"
        )
