"""Labels and class names that a dataset stores in one place, so that no sample has to be read."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from lightning_pareto.data.loaders import read_batches

ITEMS_READ = 32
"""How many items are read to tell datasets apart that store no labels."""


def stored_labels(dataset: Any) -> Tensor | None:
    """Labels of all samples, without reading a sample or applying a transform.

    They are looked up as ``dataset.targets``, ``dataset.labels`` or the last tensor of a TensorDataset, through any
    number of Subsets and ConcatDatasets. Returns (N,) integers, or None if the dataset does not store one per sample.
    """
    if isinstance(dataset, Subset):
        labels = stored_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [found for found in map(stored_labels, dataset.datasets) if found is not None]
        return torch.cat(parts) if len(parts) == len(dataset.datasets) else None
    found = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if found is None and isinstance(dataset, TensorDataset):
        found = dataset.tensors[-1]
    try:
        labels = torch.as_tensor(found).cpu()
    except (TypeError, ValueError, RuntimeError):  # not numbers
        return None
    complete = labels.ndim == 1 and hasattr(dataset, "__len__") and len(labels) == len(dataset)
    return labels.long() if complete and not labels.is_floating_point() and not labels.is_complex() else None


def first_label_out_of_range(dataset: Any, classes: int) -> int | None:
    """Index of the first sample whose stored label is not in [0, classes); None if there is none."""
    labels = stored_labels(dataset)
    if labels is None:
        return None
    outside = ((labels < 0) | (labels >= classes)).nonzero()
    return int(outside[0]) if len(outside) else None


def fingerprint_of_labels(dataset: Any) -> str | None:
    """Digest of all stored labels in order, 16 hexadecimal digits; None if the dataset stores none."""
    labels = stored_labels(dataset)
    return None if labels is None else hashlib.blake2b(labels.numpy().tobytes(), digest_size=8).hexdigest()


def fingerprint_of_items(loader: "DataLoader[Any]") -> str | None:
    """Digest of the integers in a few items of a loader's dataset, its labels among them.

    It tells datasets of one length apart where labels are not stored. None if some item has no integer, or items change
    from read to read.
    """
    size: int = len(loader.dataset)  # type: ignore[arg-type]
    few = np.unique(np.linspace(0, size - 1, ITEMS_READ).round().astype(int)).tolist()
    first, second = ([_integers(item) for item in items] for items in read_batches(loader, [few, few], collate=list))
    if first != second or not all(first):
        return None
    return hashlib.blake2b(repr(first).encode(), digest_size=8).hexdigest()


def _integers(item: Any) -> list[int]:
    parts = item.values() if isinstance(item, Mapping) else item if isinstance(item, (tuple, list)) else [item]
    arrays = [np.asarray(part) for part in parts if isinstance(part, (int, np.integer, np.ndarray, Tensor))]
    return [int(array) for array in arrays if array.ndim == 0 and array.dtype.kind in "iu"]


def stored_classes(dataset: Any) -> list[str]:
    """``dataset.classes``, also through Subsets; empty if there are none."""
    while isinstance(dataset, Subset) and not hasattr(dataset, "classes"):
        dataset = dataset.dataset
    found = getattr(dataset, "classes", None)
    return list(map(str, found)) if isinstance(found, (list, tuple)) else []


def stored_class_names(dataset: Any, count: int) -> list[str] | None:
    """The stored classes if they are ``count`` different names."""
    names = stored_classes(dataset)
    return names if len(names) == len(set(names)) == count else None
