"""Finds samples that a training and a validation set share."""

import hashlib
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_pareto.data.labels import fingerprint_of_labels

ROWS_COMPARED = 16
"""How many rows of two arrays are compared to tell whether they hold the same samples."""

Indices = npt.NDArray[np.int64]


def shared_samples(one: Any, other: Any) -> int:
    """How many samples two datasets take from the same place.

    Places are found through Subsets, ConcatDatasets and datasets that wrap another one. Two datasets are the same place
    if they are one object, share the memory of their tensors, list the same files (``.samples``), or hold equal arrays
    (``.data``) with equal labels. Copies of samples in other places are not found.
    """
    places: dict[Any, list[Indices]] = {}
    for place, indices in _places(one):
        places.setdefault(place, []).append(indices)
    return sum(
        int(np.isin(indices, np.concatenate(places[place])).sum())
        for place, indices in _places(other)
        if place in places
    )


def _places(dataset: Any) -> Iterator[tuple[Any, Indices]]:
    """Where the samples of a dataset come from: hashable places, and the indices there."""
    if isinstance(dataset, Subset):
        chosen = np.asarray(dataset.indices, dtype=np.int64)
        start = 0
        for place, indices in _places(dataset.dataset):
            here = chosen[(chosen >= start) & (chosen < start + len(indices))] - start
            yield place, indices[here]
            start += len(indices)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _places(part)
    elif (inner := _wrapped(dataset)) is not None:
        yield from _places(inner)
    else:
        yield _place(dataset)


def _wrapped(dataset: Any) -> Any:
    """The dataset of as many samples that another one wraps, as to transform them; None if there is none."""
    for name in ("dataset", "subset"):
        inner = getattr(dataset, name, None)
        if hasattr(inner, "__getitem__") and isinstance(inner, Sized) and len(inner) == len(dataset):
            return inner
    return None


def _place(dataset: Any) -> tuple[Any, Indices]:
    indices = np.arange(len(dataset), dtype=np.int64)
    if isinstance(dataset, TensorDataset):
        rows = dataset.tensors[0]
        step = rows.stride(0) if rows.ndim else 0
        if step > 0 and rows.numel() and rows.storage_offset() % step == 0:
            place = ("memory", rows.untyped_storage().data_ptr(), rows.dtype, step)
            return place, indices + rows.storage_offset() // step
    for name in ("samples", "data"):
        found = getattr(dataset, name, None)
        if isinstance(found, Sized) and len(found) == len(dataset):
            digest = _digest(found)
            if digest is not None:
                return (name, len(found), digest, fingerprint_of_labels(dataset)), indices
    return ("object", id(dataset)), indices


def _digest(rows: Any) -> str | None:
    """Digest of evenly spaced rows of an array or of all entries of a list of texts; None for anything else."""
    if isinstance(rows, (np.ndarray, torch.Tensor)):
        few = np.unique(np.linspace(0, len(rows) - 1, ROWS_COMPARED).round().astype(int))
        array = np.asarray(rows[few])
        return None if array.dtype.hasobject else hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()
    if isinstance(rows, (list, tuple)) and all(isinstance(row, tuple) and isinstance(row[0], str) for row in rows):
        return hashlib.blake2b(repr([row[0] for row in rows]).encode(), digest_size=8).hexdigest()
    return None
