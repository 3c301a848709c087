"""Finds samples that a training and a validation set share."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import fisher_exact
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_pareto.display.warning import warn

DEEPEST = 16
"""How many datasets may wrap one another."""

FEWEST_COMPARED, COPIES_EXPECTED = 1024, 100
"""Least number of samples of a set that are compared, and how many of them equal another one if all are copies."""

NUMBERS_COMPARED = 256
"""How many numbers of an array are compared."""

LONG_TEXT = 32
"""Shorter strings may be names, the same for other samples in another set."""

LEVEL, INTOLERABLE = 1e-6, 0.2
"""Copies are reported at this p-value, and refused from this share of the validation samples."""

ADVICE = (
    "so they cannot measure generalisation. Split the data once: "
    "random_split(dataset, [0.8, 0.2], generator=torch.Generator().manual_seed(0))"
)

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def refuse_overlap(train: Any, validation: Any) -> None:
    """Refuse datasets that share samples, as far as this can be told without reading any.

    It finds samples from the same place, see :func:`shared_samples`, and copies of arrays, texts and files that both
    datasets hold in their attributes.

    Raises:
        ValueError: if validation samples are training samples.
    """
    shared = shared_samples(train, validation)
    if shared:
        raise ValueError(f"{shared} of {len(validation)} validation samples are training samples, too, {ADVICE}")
    ours, theirs = (np.array(list(_contents(each)), dtype=np.int64) for each in (train, validation))
    if len(ours) and len(theirs):
        distinct, place, counts = np.unique(ours, return_inverse=True, return_counts=True)
        refuse_copies(counts[place] > 1, np.isin(theirs, distinct), len(train))


def refuse_copies(among_train: Flags, among_validation: Flags, size: int) -> None:
    """Refuse a validation set with many copies of training samples, and warn of a few.

    Data may repeat themselves by nature. Then a training sample equals another one as often as a validation sample
    does, and nothing is said.

    Args:
        among_train: whether each of n training samples, drawn at random, equals another one of them, (n,).
        among_validation: whether each of some validation samples equals one of these n training samples.
        size: number of all training samples.

    Raises:
        ValueError: for many copies.
    """
    found, natural = float(among_validation.mean()), float(among_train.mean())
    table = [[int(flags.sum()), int((~flags).sum())] for flags in (among_validation, among_train)]
    if found <= natural or fisher_exact(table, "greater").pvalue > LEVEL:
        return
    share = min(1.0, (found - natural) / (1 - natural) * size / len(among_train))
    text = f"about {share:.0%} of the validation samples are copies of training samples"
    if share >= INTOLERABLE:
        raise ValueError(f"{text}, {ADVICE}")
    warn(f"{text}, which flatters the model. Remove them from one of the sets")


def drawn(size: int) -> Indices:
    """The samples of a set that are compared, at random."""
    count = min(size, max(FEWEST_COMPARED, math.isqrt(COPIES_EXPECTED * size)))
    return np.random.default_rng(0).choice(size, count, replace=False)


def shared_samples(one: Any, other: Any) -> int:
    """How many samples two datasets take from the same place.

    Places are found through Subsets, ConcatDatasets and datasets that wrap another one. Two datasets are the same place
    if they are one object or share the memory of all their tensors.
    """
    places: dict[Any, list[Indices]] = {}
    sources = list(_sources(one)), list(_sources(other))  # kept, so that no two objects get the same id
    for place, indices in map(_placed, sources[0]):
        places.setdefault(place, []).append(indices)
    return sum(
        int(np.isin(indices, np.concatenate(places[place])).sum())
        for place, indices in map(_placed, sources[1])
        if place in places
    )


def _sources(dataset: Any, depth: int = 0) -> Iterator[tuple[Any, Indices]]:
    """The innermost datasets that samples come from, and their indices there."""
    if isinstance(dataset, Subset):
        chosen = np.asarray(dataset.indices, dtype=np.int64)
        start = 0
        for source, indices in _sources(dataset.dataset, depth + 1):
            here = chosen[(chosen >= start) & (chosen < start + len(indices))] - start
            yield source, indices[here]
            start += len(indices)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _sources(part, depth + 1)
    elif depth < DEEPEST and (inner := _wrapped(dataset)) is not None:
        yield from _sources(inner, depth + 1)
    else:
        yield dataset, np.arange(len(dataset), dtype=np.int64)


def _wrapped(dataset: Any) -> Any:
    """The dataset of as many samples that another one wraps, as to transform them; None if it is not clear which."""
    attributes = getattr(dataset, "__dict__", {}).values()
    usual = [getattr(dataset, name, None) for name in ("dataset", "subset")]
    for held in (usual, [each for each in attributes if isinstance(each, Dataset)]):
        found = {id(each): each for each in held if each is not dataset and _has_as_many(each, dataset)}
        if found:
            return next(iter(found.values())) if len(found) == 1 or held is usual else None
    return None


def _has_as_many(one: Any, dataset: Any) -> bool:
    try:
        return hasattr(one, "__getitem__") and isinstance(one, Sized) and len(one) == len(dataset)
    except (TypeError, NotImplementedError):  # a length that is there in name only
        return False


def _placed(source: tuple[Any, Indices]) -> tuple[Any, Indices]:
    """The memory of a dataset's tensors if they are known, otherwise the dataset itself; with the indices there."""
    dataset, indices = source
    if isinstance(dataset, TensorDataset):
        memory = [found for found in map(_rows_in_memory, dataset.tensors) if found is not None]
        if len(memory) == len(dataset.tensors) > 0:
            first = memory[0][1]
            return tuple((place, start - first) for place, start in memory), indices + first
    return id(dataset), indices


def _rows_in_memory(rows: torch.Tensor) -> tuple[Any, int] | None:
    """The memory that the rows of a tensor lie in, and the number of the first row there; None if it is uneven."""
    if rows.layout != torch.strided or not rows.numel():
        return None
    step, start = rows.stride(0), rows.storage_offset()
    return None if step <= 0 or start % step else ((rows.untyped_storage().data_ptr(), rows.dtype, step), start // step)


def _contents(dataset: Any) -> Iterator[int]:
    """Digests of what a dataset holds of its compared samples; fewer where some of its parts hold nothing."""
    sources = list(_sources(dataset))
    chosen = drawn(sum(len(indices) for _, indices in sources))
    start = 0
    for source, indices in sources:
        here = indices[chosen[(chosen >= start) & (chosen < start + len(indices))] - start].tolist()
        start += len(indices)
        try:
            columns = [found for column in _columns(source) if (found := _digests(_picked(column, here)))]
        except Exception:  # attributes may be anything
            continue
        yield from map(hash, zip(*columns, strict=True))


def _columns(dataset: Any) -> Iterator[Any]:
    """The attributes with an entry for every sample, in the order of their names; or the dataset, if it is a list."""
    attributes = [value for _, value in sorted(getattr(dataset, "__dict__", {}).items())]
    held = dataset.tensors if isinstance(dataset, TensorDataset) else [dataset, *attributes]
    for value in held:
        rows = getattr(value, "iloc", value)  # of a table of pandas
        known = rows is not value or isinstance(value, (list, tuple, np.ndarray, torch.Tensor))
        if known and getattr(value, "ndim", True) and len(value) == len(dataset):
            yield rows


def _picked(column: Any, indices: list[int]) -> Sequence[Any]:
    """The entries of these samples; of arrays in one piece, all those numbers at once that are compared."""
    if isinstance(column, np.ndarray):
        whole = column.flags.c_contiguous and not column.dtype.hasobject
    else:
        whole = isinstance(column, torch.Tensor) and column.is_contiguous()
    size = math.prod(column.shape[1:]) if whole else 0
    if not size:
        return [column[i] for i in indices]
    rows = column.reshape(len(column), size)[:, :: math.ceil(size / NUMBERS_COMPARED)]
    return list(_numbers(rows[indices], math.inf))


def _digests(items: Sequence[Any]) -> list[int] | None:
    """A digest of each item's arrays, long texts and files; None if they have none, or are not alike."""
    if not items:
        return None
    if all(isinstance(item, (str, os.PathLike)) for item in items):
        names = list(map(os.fspath, items))
        return list(map(hash, names)) if max(map(len, names)) >= LONG_TEXT or Path(names[0]).is_file() else None
    if all(isinstance(item, Mapping) for item in items):
        items = [tuple(item[key] for key in sorted(item, key=str)) for item in items]
    nested = all(isinstance(item, (tuple, list)) and len(item) == len(items[0]) for item in items)
    if nested and not isinstance(items[0][0], (int, float)):
        parts = [found for part in zip(*items, strict=True) if (found := _digests(part))]
        return [hash(each) for each in zip(*parts, strict=True)] or None
    arrays = list(map(_numbers, items))
    if min(array.size for array in arrays) < 2:
        return None
    return [hash(str(each.tolist()) if each.dtype.hasobject else each.tobytes()) for each in arrays]


def _numbers(item: Any, most: float = NUMBERS_COMPARED) -> npt.NDArray[Any]:
    """Some numbers of an array, a tensor, an image, a list or a row of a table; a single object for anything else."""
    array = item.detach() if isinstance(item, torch.Tensor) else np.asarray(item)
    if (size := math.prod(array.shape)) > most:
        array = array.reshape(-1)[:: math.ceil(size / most)]
    return array.cpu().float().numpy() if isinstance(array, torch.Tensor) else array
