"""Digests of a model's weights and a dataset's samples, to tell whether two results belong together."""

import hashlib
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_pareto.data.labels import fingerprint_of_labels
from lightning_pareto.data.loaders import read_batches, together
from lightning_pareto.influence.passes import GradientPass

HASHED_SAMPLES = 8
"""How many samples of a dataset to hash, evenly spaced."""


def fingerprint_of(value: Any) -> str:
    """Digest of a nested value, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    _add(digest, value)
    return digest.hexdigest()


def fingerprint_of_model(module: nn.Module) -> str:
    """Digest of the names, shapes and values of all parameters and buffers, 16 hexadecimal digits."""
    return fingerprint_of(dict([*module.named_parameters(), *module.named_buffers()]))


def fingerprint_of_data(data: GradientPass) -> str:
    """Digest of a dataset's length, its stored labels, and a few samples as the model sees them.

    The samples go through the collate function, the transfer, the model and the loss. So the digest changes with the
    order, the labels or the transform. It misses changes in the inputs of other samples. A dataset with random samples
    gets a new digest each time. The probe must be open.
    """
    found: list[Any] = [data.size, fingerprint_of_labels(data.loader.dataset)]
    for batch in data.batches_of(together(data.loader, _few(data.size))):
        forward = data.probe.forward(batch)
        loss = data.probe.task.loss(forward.logits.detach().float(), forward.targets)
        found += [batch, forward.targets, loss]
    return fingerprint_of(found)


def fingerprint_of_contents(loader: "DataLoader[Any]") -> str | None:
    """Digest of a few samples of a loader, as its collate function returns them; None if they change between reads."""
    few = together(loader, _few(len(loader.dataset)))  # type: ignore[arg-type]
    found = list(map(fingerprint_of, read_batches(loader, few + few)))
    first, second = found[: len(few)], found[len(few) :]
    return fingerprint_of(first) if first == second else None


def _few(size: int) -> list[int]:
    few: list[int] = np.unique(np.linspace(0, size - 1, HASHED_SAMPLES).round().astype(int)).tolist()
    return few


def _add(digest: "hashlib.blake2b", value: Any) -> None:
    """Add a nested value of tensors, arrays, numbers and strings; anything else by its pickle, if it has one."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            digest.update(str(key).encode())
            _add(digest, part)
    elif isinstance(value, Tensor) and value.is_nested:
        _add(digest, value.unbind())
    elif isinstance(value, (set, frozenset)):
        _add(digest, sorted(value, key=repr))
    elif isinstance(value, (tuple, list)):
        for part in value:
            _add(digest, part)
    elif isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        dense = (value if value.layout is torch.strided else value.to_dense()).detach().cpu().contiguous()
        digest.update(dense.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (np.ndarray, np.generic)) and not np.asarray(value).dtype.hasobject:
        array = np.asarray(value)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    else:
        try:
            digest.update(pickle.dumps(value))
        except Exception:  # pickling may fail in any way, but a fingerprint must not
            digest.update(repr(type(value)).encode())
