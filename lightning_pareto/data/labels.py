"""Labels and class names that a dataset stores in one place, so that no sample has to be read."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset


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


def stored_class_names(dataset: Any, count: int) -> list[str] | None:
    """``dataset.classes``, also through Subsets, if they are ``count`` different names."""
    while isinstance(dataset, Subset) and not hasattr(dataset, "classes"):
        dataset = dataset.dataset
    found = getattr(dataset, "classes", None)
    names = list(map(str, found)) if isinstance(found, (list, tuple)) else []
    return names if len(names) == len(set(names)) == count else None
