"""The user's DataLoader with another sampler and every other option kept."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler


def check_map_style(loader: Any, name: str) -> "DataLoader[Any]":
    """Return ``loader`` if each of its samples has an index.

    Args:
        loader: what the user gave.
        name: what to call it in the error.

    Raises:
        TypeError: if it is not a DataLoader over a map-style dataset that batches samples by index.
        ValueError: if its dataset is empty.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"{name} must be one torch.utils.data.DataLoader, found {type(loader).__name__}. "
            "With several, pass the one whose samples are meant: train_dataloader=… or val_dataloader_idx=…"
        )
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{name} reads {type(dataset).__name__}, which has no index and no length: influence and weights belong to "
            "dataset indices. Load it into a map-style dataset (with __getitem__ and __len__) first, for instance "
            "list(dataset)"
        )
    if loader.batch_sampler is None:
        raise TypeError(
            f"{name} has automatic batching disabled (batch_size=None), so its dataset's items are not samples. "
            "Give the loader a batch_size and let the dataset return single samples"
        )
    if len(dataset) == 0:
        raise ValueError(f"{name} has an empty dataset: look at the split or the filter that it comes from")
    return loader


def fetch(loader: "DataLoader[Any]", indices: Sequence[int]) -> Any:
    """Return one batch of these samples, as the loader would make it, without any of its workers."""
    dataset = loader.dataset
    many = getattr(dataset, "__getitems__", None)
    samples = many(list(indices)) if callable(many) else [dataset[index] for index in indices]
    return loader.collate_fn(samples)


def size_of_batches(loader: "DataLoader[Any]") -> int:
    """Samples of a batch, as far as the loader says."""
    return loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 64


def with_sampler(
    loader: "DataLoader[Any]",
    sampler: Sampler[int],
    *,
    drop_last: bool,
    generator: torch.Generator | None,
    batch_size: int | None = None,
) -> "DataLoader[Any]":
    """Return a copy of ``loader`` that draws its indices from ``sampler``.

    The copy keeps the class and every other attribute, so that a subclass of DataLoader works whatever its
    constructor takes: batch size, collate function, workers, pinning, prefetching, timeout.

    Args:
        loader: a map-style loader.
        sampler: yields dataset indices.
        drop_last: whether a last, smaller batch is left out.
        generator: the copy's generator, from which it seeds its workers.
        batch_size: samples of a batch, the loader's own number by default.
    """
    size = batch_size or size_of_batches(loader)
    twin = copy.copy(loader)
    twin.__dict__.update(  # DataLoader refuses assignment of these after its construction
        sampler=sampler,
        batch_sampler=BatchSampler(sampler, size, drop_last),
        batch_size=size,
        drop_last=drop_last,
        generator=generator,
        _iterator=None,
    )
    return twin
