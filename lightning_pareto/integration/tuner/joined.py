"""Training and validation data as one, for a last fit after all decisions."""

import copy
import functools
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler

from lightning_pareto.integration.train_loaders import with_dataset
from lightning_pareto.loaders import check_map_style, with_sampler


def joined(datamodule: pl.LightningDataModule, val_dataloader_idx: int) -> pl.LightningDataModule:
    """A copy of a DataModule with the validation samples appended to the training samples.

    Batches are made as those of the training loader. The validation loader stays, so that a model fitted on this is
    measured on samples that it was trained on.

    Args:
        datamodule: the user's.
        val_dataloader_idx: which of several validation loaders is meant.
    """
    twin = copy.copy(datamodule)
    own = vars(datamodule).get("train_dataloader")  # as from_datasets makes it, else that of the class
    train = own or functools.partial(type(datamodule).train_dataloader, twin)
    vars(twin)["train_dataloader"] = functools.partial(_joined_loader, twin, train, val_dataloader_idx)
    return twin


def _joined_loader(datamodule: pl.LightningDataModule, train: Any, val_dataloader_idx: int) -> "DataLoader[Any]":
    loader = check_map_style(train(), "the train dataloader")
    validation = datamodule.val_dataloader()
    if isinstance(validation, dict):
        validation = list(validation.values())
    if isinstance(validation, (list, tuple)):
        validation = validation[val_dataloader_idx]
    other = check_map_style(validation, "the validation dataloader")
    both: ConcatDataset[Any] = ConcatDataset([loader.dataset, other.dataset])
    sampled = with_sampler(loader, RandomSampler(both), drop_last=loader.drop_last, generator=loader.generator)
    return with_dataset(sampled, both)
