"""Checks, copies and single batches of the user's DataLoader."""

import copy
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_pareto.display.warning import warn


def check_map_style(loader: Any, name: str) -> "DataLoader[Any]":
    """Return ``loader`` if its samples have indices. Errors call it by ``name``.

    Raises:
        TypeError: if it is not a DataLoader that batches a map-style dataset by index, or it draws a part of that only.
        ValueError: if its dataset is empty.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"{name} must be a single torch.utils.data.DataLoader, found {type(loader).__name__}. "
            "If you have several, choose one with train_dataloader=… or val_dataloader_idx=…"
        )
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{name} must read a map-style dataset, found {type(dataset).__name__}, which has no index or no length. "
            "Influence and weights belong to dataset indices. Load the samples into a map-style dataset (with "
            "__getitem__ and __len__) first, for instance list(dataset)"
        )
    if loader.batch_sampler is None:
        raise TypeError(
            f"{name} must batch single samples, found batch_size=None (automatic batching disabled). "
            "Set a batch_size and let the dataset return single samples"
        )
    if len(dataset) == 0:
        raise ValueError(f"{name} has an empty dataset: check the split or the filter that produced it")
    refuse_part(loader, sampler_of(loader), name)
    return loader


def sampler_of(loader: "DataLoader[Any]") -> Any:
    """What chooses the loader's samples: its sampler, that of its BatchSampler, or the user's own batch sampler."""
    batches = loader.batch_sampler
    return batches.sampler if type(batches) is BatchSampler else loader.sampler if batches is None else batches


def refuse_part(loader: "DataLoader[Any]", sampler: Any, name: str, drawn: Collection[int] | None = None) -> None:
    """Raise a TypeError if a sampler draws a part of the loader's dataset only.

    Args:
        loader: the loader.
        sampler: its sampler.
        name: what errors call the loader.
        drawn: the samples that it draws. By default those that a list or a SubsetRandomSampler names, otherwise all.
    """
    indices = sampler.indices if isinstance(sampler, SubsetRandomSampler) else sampler
    if drawn is None and isinstance(indices, (list, tuple, range, np.ndarray)):
        drawn = {int(index) for each in indices for index in np.ravel(each)}  # numbers or batches of them
    size: int = len(loader.dataset)  # type: ignore[arg-type]
    if drawn is not None and len(drawn) < size:
        raise TypeError(
            f"{name} draws {len(drawn)} of {size} samples by its sampler, a {type(sampler).__name__}, but influence "
            "and weights belong to all samples of a dataset. Make the part a dataset: "
            "DataLoader(Subset(dataset, indices), shuffle=True)"
        )


def samples_chosen(sampler: Any, dataset: Any, name: str) -> set[int] | None:
    """Indices of the samples that a sampler or batch sampler of the user's own always draws.

    It reads a copy twice, so the sampler itself stays as it is. Global random states have to be restored by the caller.
    Returns None if they change from read to read, may change with the epoch or the process, or leave out less than a
    batch, as with ``drop_last``. A warning that calls the loader by ``name`` says if the sampler cannot be read.
    """
    dealing = ("set_epoch", "epoch", "num_replicas", "rank", "world_size")
    if any(hasattr(each, attribute) for each in (sampler, getattr(sampler, "sampler", None)) for attribute in dealing):
        return None
    most, largest = 2 * len(dataset), 1
    reads: list[set[int]] = []
    try:
        twin = copy.deepcopy(sampler, {id(dataset): dataset})
        for _ in range(2):
            drawn: list[int] = []
            for item in twin:
                batch = [int(item)] if np.ndim(item) == 0 else list(map(int, item))
                drawn.extend(batch)
                largest = max(largest, len(batch))
                if len(drawn) >= most:  # perhaps without end
                    return None
            reads.append(set(drawn))
    except Exception as error:  # a sampler may do anything, and this is only a check
        warn(
            f"the {type(sampler).__name__} of {name} cannot be read before the fit ({error}), so nobody knows whether "
            "it draws all samples. Influence and weights belong to all samples of a dataset"
        )
        return None
    left = len(dataset) - len(reads[0])
    return reads[0] if reads[0] == reads[1] and not 0 < left < largest else None


def read_batches(loader: "DataLoader[Any]", batches: Iterable[Sequence[int]], collate: Any = None) -> Iterator[Any]:
    """Load and collate these batches of samples, each in the given order, whatever the loader's own order is.

    If the loader has workers, one of them reads. The dataset may need what ``worker_init_fn`` sets up, and files that
    it opens on first use must not be opened in this process, where later workers would inherit and share them.

    Args:
        loader: whose dataset, workers and collate function to use.
        batches: dataset indices of each batch.
        collate: another collate function.
    """
    options: dict[str, Any] = {}
    if loader.num_workers:
        context = loader.multiprocessing_context
        options = {"num_workers": 1, "timeout": loader.timeout, "multiprocessing_context": context}
    yield from DataLoader(
        loader.dataset,
        batch_sampler=list(map(list, batches)),
        collate_fn=collate or loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        generator=torch.Generator(),
        **options,
    )


def sampling_weights(sampler: Any) -> npt.NDArray[np.float64] | None:
    """Weights by which a WeightedRandomSampler with replacement or a ParetoSampler draws, (N,); None for any other."""
    if isinstance(sampler, WeightedRandomSampler):
        return sampler.weights.double().numpy() if sampler.replacement else None
    values = getattr(getattr(sampler, "weights", None), "values", None)
    return values if isinstance(values, np.ndarray) else None


def size_of_batches(loader: "DataLoader[Any]") -> int:
    """Batch size of the loader, or 64 if it does not define one."""
    return loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 64


def together(loader: "DataLoader[Any]", indices: Sequence[int]) -> list[Sequence[int]]:
    """These samples as one batch, or one by one if the loader does so, since they may differ in size."""
    return [indices] if size_of_batches(loader) > 1 else [[index] for index in indices]


def with_sampler(
    loader: "DataLoader[Any]",
    sampler: Sampler[int],
    *,
    drop_last: bool,
    generator: torch.Generator | None,
    batch_size: int | None = None,
) -> "DataLoader[Any]":
    """Return a copy of a map-style loader that draws its indices from ``sampler``.

    The copy keeps the class and all other attributes (collate function, workers, pinning, prefetching, timeout), and
    by default the batch size. So it also works for subclasses of DataLoader, whatever arguments their constructors
    take. The ``generator`` seeds the copy's workers.
    """
    size = batch_size or size_of_batches(loader)
    twin = copy.copy(loader)
    twin.__dict__.update(  # DataLoader does not allow assigning these after construction
        sampler=sampler,
        batch_sampler=BatchSampler(sampler, size, drop_last),
        batch_size=size,
        drop_last=drop_last,
        generator=generator,
        _iterator=None,
    )
    fresh = {"in_order": True, "next_iter_state": None}  # the second is that of torchdata's StatefulDataLoader
    twin.__dict__.update({name: value for name, value in fresh.items() if name in vars(loader)})
    return twin
