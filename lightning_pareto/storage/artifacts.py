"""The file format of all results: named arrays in safetensors, with everything else as JSON in the metadata.

Loading never executes code. Writing is atomic. Whatever bytes a file contains, reading it either returns a consistent
result or raises an :class:`ArtifactError`.
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

MAX_HEADER_BYTES = 2**24
"""Largest header (names and metadata) that is written or read. Results need far less."""

STALE_SECONDS = 3600.0
"""Age from which a temporary file counts as left behind by a killed process."""


class ArtifactError(ValueError):
    """A file is not a readable artifact of the expected kind."""


def save_artifact(
    path: str | os.PathLike[str], kind: str, arrays: dict[str, np.ndarray], metadata: dict[str, Any]
) -> Path:
    """Write arrays and metadata to ``path`` with :func:`write_atomically`, and return the path.

    The ``kind`` of result, for instance ``"influence"``, is checked on loading.

    Raises:
        OSError: if the folder is not writable or the disk is full. Nothing is left behind.
        TypeError: if the metadata are not JSON-serialisable.
        ValueError: if the metadata are too large to be read back.
    """
    path = Path(path)
    try:
        described = json.dumps(metadata)
    except TypeError as error:
        raise TypeError(f"metadata must be JSON-serialisable (strings, numbers, lists, dicts): {error}") from error
    limit = MAX_HEADER_BYTES // 2  # the header is JSON too, and escapes the quotes in this text once more
    if len(described) > limit:
        raise ValueError(f"metadata must have at most {limit} bytes, found {len(described)}. Store them elsewhere")
    arrays = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    header = {"kind": kind, "format_version": str(FORMAT_VERSION), "metadata": described}
    payload = save(arrays, metadata={**header, "digest": _digest(arrays, header)})
    write_atomically(path, payload)
    remove_temporary_files(path.parent, path.name, min_age=STALE_SECONDS)
    return path


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file completely or not at all, creating its folder. Readers see the old file, the new one, or none.

    The bytes go to a temporary file next to the target, which then replaces the target.

    Raises:
        OSError: if the file cannot be written. Nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(_permissions(path))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # it is missing once it has replaced the target
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}: nothing was written", str(path)) from error


def _permissions(path: Path) -> int:
    """Permissions of the existing file, or the default for new files. Temporary files are private to their owner."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def remove_temporary_files(folder: Path, name: str, min_age: float = 0.0) -> None:
    """Remove temporary files that killed processes have left behind, last written at least ``min_age`` seconds ago.

    ``name`` is the name of the target file, or a shell pattern.
    """
    for path in folder.glob(f".{name}.*"):
        with contextlib.suppress(OSError):  # another process may have removed it
            if time.time() - path.stat().st_mtime >= min_age:
                path.unlink()


def load_artifact(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the metadata of a file written by :func:`save_artifact`.

    Build the result from them inside :func:`consistent_parts`.

    Raises:
        ArtifactError: if the file is truncated, has changed since it was written, is of another kind or a newer format,
            or has too large a header.
        FileNotFoundError: if the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} artifact at {path}")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER_BYTES:  # before it is parsed
        raise ArtifactError(
            f"{path} is not a valid safetensors file of this package: its header claims {size} bytes, and at most "
            f"{MAX_HEADER_BYTES} are read. Compute it again"
        )
    try:
        with safe_open(str(path), framework="numpy") as opened:
            header = opened.metadata() or {}
            _check_kind(path, header, kind)
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, TypeError, KeyError) as error:  # TypeError and KeyError: dtypes that NumPy lacks
        reason = printable(str(error), 200)
        raise ArtifactError(f"{path} is not a valid safetensors file ({reason}). Compute it again") from error
    digest = header.pop("digest", None)
    if digest != _digest(arrays, header):
        raise ArtifactError(f"{path} has changed since it was written, perhaps on a failing disk. Compute it again")
    with consistent_parts(path):
        return arrays, {**json.loads(header["metadata"])}


@contextlib.contextmanager
def consistent_parts(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors from missing or inconsistent parts of the file ``path`` into an :class:`ArtifactError`."""
    try:
        yield
    except ArtifactError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ArtifactError(
            f"{path} is damaged, or was written by another version: its parts are inconsistent "
            f"({type(error).__name__}: {printable(str(error), 200)}). Compute it again"
        ) from error


def _digest(arrays: dict[str, np.ndarray], header: dict[str, str]) -> str:
    """Hash of everything in the file, 32 hexadecimal digits. It detects accidents, not tampering."""
    digest = hashlib.blake2b(digest_size=16)
    for name, text in sorted(header.items()):
        digest.update(f"{name}={text};".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _check_kind(path: Path, header: dict[str, str], kind: str) -> None:
    if header.get("kind") != kind:
        raise ArtifactError(f"{path} holds {header.get('kind', 'no known kind')[:40]!r}, expected {kind!r}")
    version = header.get("format_version", "")
    if not (version.isascii() and version.isdigit()) or len(version) > 9:
        raise ArtifactError(f"{path} must have a numeric format version, found {version[:20]!r}. Compute it again")
    if int(version) > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, but this lightning_pareto reads versions up to {FORMAT_VERSION} "
            "only. Upgrade it: pip install --upgrade lightning_pareto"
        )
