"""Short names for a model's weights and a dataset's samples, to tell whether two results belong together."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

LOOKED_AT = 16
"""How many samples of a dataset are looked at, evenly spaced."""


def fingerprint_of_model(module: nn.Module) -> str:
    """Digest of the names, shapes and values of all parameters and buffers, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(name.encode())
        _add(digest, value)
    return digest.hexdigest()


def fingerprint_of_data(loader: "DataLoader[Any]") -> str:
    """Digest of a dataset's length and of some of its samples, 16 hexadecimal digits.

    It tells another order, other labels on those samples, or another transform; not a change of the samples that it
    does not look at. With random samples it is another one each time.
    """
    dataset = loader.dataset
    size = len(dataset)  # type: ignore[arg-type]
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    for index in dict.fromkeys(np.linspace(0, size - 1, LOOKED_AT).round().astype(int).tolist()):
        _add(digest, dataset[index])
    return digest.hexdigest()


def _add(digest: "hashlib.blake2b", value: Any) -> None:
    """Add a nested value of tensors, arrays, numbers and texts."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            digest.update(str(key).encode())
            _add(digest, part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            _add(digest, part)
    elif isinstance(value, (Tensor, np.ndarray)):
        array = value.detach().cpu().contiguous() if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update(repr(value).encode() if isinstance(value, (bool, int, float, str, bytes)) else b"?")
