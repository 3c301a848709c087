"""Finds samples that a training and a validation set share."""

import hashlib
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_pareto.data.labels import fingerprint_of_labels

ROWS_COMPARED = 4096
"""How many rows of two arrays are compared to tell whether they hold the same samples."""

DEEPEST = 16
"""How many datasets may wrap one another."""

Indices = npt.NDArray[np.int64]


def shared_samples(one: Any, other: Any) -> int:
    """How many samples two datasets take from the same place.

    Places are found through Subsets, ConcatDatasets and datasets that wrap another one. Two datasets are the same place
    if they are one object, share the memory of all their tensors, list the same files (``.samples``), or hold equal
    arrays (``.data``) with equal labels. Copies of samples in other places are not found.
    """
    kept: list[Any] = []  # objects that are made on the way must not leave their identity to the next one
    places: dict[Any, list[Indices]] = {}
    for place, indices in _places(one, kept):
        places.setdefault(place, []).append(indices)
    return sum(
        int(np.isin(indices, np.concatenate(places[place])).sum())
        for place, indices in _places(other, kept)
        if place in places
    )


def _places(dataset: Any, kept: list[Any], depth: int = 0) -> Iterator[tuple[Any, Indices]]:
    """Where the samples of a dataset come from: hashable places, and the indices there."""
    kept.append(dataset)
    if isinstance(dataset, Subset):
        chosen = np.asarray(dataset.indices, dtype=np.int64)
        start = 0
        for place, indices in _places(dataset.dataset, kept, depth + 1):
            here = chosen[(chosen >= start) & (chosen < start + len(indices))] - start
            yield place, indices[here]
            start += len(indices)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _places(part, kept, depth + 1)
    elif depth < DEEPEST and (inner := _wrapped(dataset)) is not None:
        yield from _places(inner, kept, depth + 1)
    else:
        yield _place(dataset)


def _wrapped(dataset: Any) -> Any:
    """The dataset of as many samples that another one wraps, as to transform them; None if there is none."""
    for name in ("dataset", "subset"):
        inner: Any = getattr(dataset, name, None)
        sized = inner is not dataset and hasattr(inner, "__getitem__") and isinstance(inner, Sized)
        if sized and len(inner) == len(dataset):
            return inner
    return None


def _place(dataset: Any) -> tuple[Any, Indices]:
    """The memory, files or array of a dataset if they are known, otherwise the dataset itself."""
    indices = np.arange(len(dataset), dtype=np.int64)
    try:
        if isinstance(dataset, TensorDataset):
            memory = [_rows_in_memory(tensor) for tensor in dataset.tensors]
            first = memory[0][1]
            return tuple((place, start - first) for place, start in memory), indices + first
        for name, digest in (("samples", _digest_of_files), ("data", _digest_of_array)):
            found = digest(dataset)
            if found is not None:
                return (name, len(dataset), found), indices
    except Exception:  # attributes of these names may be anything
        return ("object", id(dataset)), indices
    return ("object", id(dataset)), indices


def _rows_in_memory(rows: torch.Tensor) -> tuple[Any, int]:
    """The memory that the rows of a tensor lie in, and the number of the first row there."""
    step = rows.stride(0)
    if step <= 0 or rows.storage_offset() % step or not rows.numel():
        raise ValueError("rows that are not evenly spaced")
    return (rows.untyped_storage().data_ptr(), rows.dtype, step), rows.storage_offset() // step


def _digest_of_files(dataset: Any) -> str | None:
    """Digest of ``.samples`` if they are tuples that begin with a path; None for anything else."""
    rows, root = getattr(dataset, "samples", None), getattr(dataset, "root", "")
    if not isinstance(rows, (list, tuple)) or len(rows) != len(dataset):
        return None
    paths = [Path(root, row[0]) for row in rows]
    known = bool(root) or all(path.is_absolute() for path in paths)
    return hashlib.blake2b(repr(paths).encode(), digest_size=8).hexdigest() if known else None


def _digest_of_array(dataset: Any) -> str | None:
    """Digest of many rows of ``.data``, and of all stored labels; None without either."""
    rows, labels = getattr(dataset, "data", None), fingerprint_of_labels(dataset)
    if labels is None or not isinstance(rows, (np.ndarray, torch.Tensor)) or len(rows) != len(dataset):
        return None
    few = np.unique(np.linspace(0, len(rows) - 1, ROWS_COMPARED).round().astype(int))
    chosen = rows[few]
    if isinstance(chosen, torch.Tensor):
        chosen = chosen.detach().cpu().contiguous().view(torch.uint8).numpy()
    digest = hashlib.blake2b(np.ascontiguousarray(chosen).tobytes(), digest_size=8)
    digest.update(f"{rows.dtype}{tuple(rows.shape)}{labels}".encode())
    return None if rows.dtype == object else digest.hexdigest()
