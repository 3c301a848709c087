"""What a dataset tells of its samples without reading them: labels and names of classes."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset


def labels_at_hand(dataset: Any) -> Tensor | None:
    """Labels of all samples, where the dataset keeps them in one place; its transforms are not applied.

    They are found as ``dataset.targets``, ``dataset.labels`` or the last tensor of a TensorDataset, through any number
    of Subsets and ConcatDatasets.

    Returns:
        (N,) integers, or None if there are none that can be had for nothing.
    """
    if isinstance(dataset, Subset):
        labels = labels_at_hand(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [found for found in map(labels_at_hand, dataset.datasets) if found is not None]
        return torch.cat(parts) if len(parts) == len(dataset.datasets) else None
    found = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if found is None and isinstance(dataset, TensorDataset):
        found = dataset.tensors[-1]
    try:
        labels = torch.as_tensor(found).cpu()
    except (TypeError, ValueError, RuntimeError):  # not numbers
        return None
    whole = labels.ndim == 1 and hasattr(dataset, "__len__") and len(labels) == len(dataset)
    return labels.long() if whole and not labels.is_floating_point() and not labels.is_complex() else None


def first_out_of_range(dataset: Any, classes: int) -> int | None:
    """Index of the first sample whose label at hand is no class; None if there is none, or labels are not at hand."""
    labels = labels_at_hand(dataset)
    if labels is None:
        return None
    outside = (labels < 0) | (labels >= classes)
    return int(outside.int().argmax()) if outside.any() else None


def fingerprint_of_labels(dataset: Any) -> str | None:
    """Digest of all labels in their order, 16 hexadecimal digits; None if they are not at hand.

    It needs no model and reads no sample, so that it tells another dataset of the same length wherever labels are kept
    in one place.
    """
    labels = labels_at_hand(dataset)
    return None if labels is None else hashlib.blake2b(labels.numpy().tobytes(), digest_size=8).hexdigest()


def class_names_at_hand(dataset: Any, count: int) -> list[str] | None:
    """``dataset.classes`` of a dataset or of the one that it is a Subset of, if they are ``count`` different names."""
    while isinstance(dataset, Subset) and not hasattr(dataset, "classes"):
        dataset = dataset.dataset
    found = getattr(dataset, "classes", None)
    if not isinstance(found, (list, tuple)):
        return None
    names = [str(name) for name in found]
    return names if len(names) == len(set(names)) == count else None
