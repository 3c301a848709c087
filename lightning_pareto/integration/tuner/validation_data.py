"""Adds validation samples to the training data of a fit that the other samples judge, or that comes last."""

import copy
import functools
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler, SequentialSampler, Subset

from lightning_pareto.data.loaders import check_map_style, sampling_weights, with_sampler
from lightning_pareto.integration.trainer.internals import own_sampler
from lightning_pareto.integration.trainer.train_loaders import choose_loader, replace_loader, with_dataset


def joined(
    datamodule: pl.LightningDataModule, val_dataloader_idx: int, chosen: npt.NDArray[np.bool_]
) -> pl.LightningDataModule:
    """A copy of a DataModule with some validation samples appended to the training samples.

    Batches are made as those of the training loader. Only the other validation samples remain for validation, so a
    callback that watches it sees samples that were not trained on. If all samples join, the validation loader stays as
    it was and proves nothing.

    Args:
        datamodule: the user's DataModule.
        val_dataloader_idx: which of several validation loaders.
        chosen: the validation samples that join, (n,) bool.
    """
    twin = copy.copy(datamodule)
    train, val = (_own(datamodule, twin, name) for name in ("train_dataloader", "val_dataloader"))
    members = vars(twin)
    members["train_dataloader"] = functools.partial(_both, train, val, val_dataloader_idx, chosen)
    if not chosen.all():
        members["val_dataloader"] = functools.partial(_rest, val, val_dataloader_idx, chosen)
    return twin


def check_sampler(loader: Any) -> None:
    """Raise a TypeError if the training loader samples by weights, of which samples that join have none."""
    sampler = own_sampler(loader) if isinstance(loader, DataLoader) else None
    if sampling_weights(sampler) is not None:
        raise TypeError(
            f"validation samples cannot join a training loader with a {type(sampler).__name__}, which has no weights "
            "for them: leave out include_validation=True, or balance the classes in the loss instead"
        )


def _own(datamodule: pl.LightningDataModule, twin: pl.LightningDataModule, name: str) -> Any:
    """A loader's method on the twin: the one that from_datasets set, or that of the class."""
    return vars(datamodule).get(name) or functools.partial(getattr(type(datamodule), name), twin)


def _both(train: Any, val: Any, which: int, chosen: npt.NDArray[np.bool_]) -> "DataLoader[Any]":
    loader, found = check_map_style(train(), "the train dataloader"), val()
    other = check_map_style(choose_loader(found, _key(found, which)), "the validation dataloader")
    both: ConcatDataset[Any] = ConcatDataset([loader.dataset, _some(other.dataset, chosen)])
    sampled = with_sampler(loader, RandomSampler(both), drop_last=loader.drop_last, generator=loader.generator)
    return with_dataset(sampled, both)


def _rest(val: Any, which: int, chosen: npt.NDArray[np.bool_]) -> Any:
    found = val()
    return replace_loader(found, _key(found, which), functools.partial(_without, chosen=chosen))


def _key(loaders: Any, which: int) -> Any:
    """Key of a numbered loader among those that a DataModule returns; None for the only one."""
    if isinstance(loaders, dict):
        return list(loaders)[which]
    return which if isinstance(loaders, (list, tuple)) else None


def _without(loader: Any, chosen: npt.NDArray[np.bool_]) -> "DataLoader[Any]":
    rest = _some(check_map_style(loader, "the validation dataloader").dataset, ~chosen)
    sampled = with_sampler(loader, SequentialSampler(rest), drop_last=loader.drop_last, generator=loader.generator)
    return with_dataset(sampled, rest)


def _some(dataset: Any, chosen: npt.NDArray[np.bool_]) -> Any:
    return dataset if chosen.all() else Subset(dataset, np.flatnonzero(chosen).tolist())
