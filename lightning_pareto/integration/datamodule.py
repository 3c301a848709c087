"""Weights into the user's data: a DataModule around theirs, or one DataLoader."""

import os
import warnings
from typing import Any

import lightning.pytorch as pl
import numpy.typing as npt
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.loaders import check_map_style, with_sampler
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.sampling import ParetoSampler

Weights = SampleWeights | str | os.PathLike[str] | npt.ArrayLike

_DELEGATED = (
    "prepare_data",
    "setup",
    "teardown",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "transfer_batch_to_device",
    "on_before_batch_transfer",
    "on_after_batch_transfer",
    "on_exception",
    "state_dict",
    "load_state_dict",
)


def reweighted_dataloader(dataloader: "DataLoader[Any]", weights: Weights, *, seed: int = 0) -> "DataLoader[Any]":
    """Return a DataLoader like ``dataloader`` whose samples are drawn by weight.

    Batch size, collate function, workers, pinning, generator and ``drop_last`` are kept. Pass it to ``trainer.fit`` in
    place of the original, on one process or several.

    Args:
        dataloader: a training loader over a map-style dataset.
        weights: one weight per dataset index, or the path of saved weights.
        seed: of the draws; the same on all processes.

    Raises:
        TypeError: if the loader's samples have no index, or it batches by a sampler of its own.
        ValueError: if there are not as many weights as samples.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = reweighted_dataloader(DataLoader(range(4), batch_size=4), [0.0, 0.0, 2.0, 2.0])
        >>> sorted(next(iter(loader)).tolist())
        [2, 2, 3, 3]
    """
    check_map_style(dataloader, "the train dataloader")
    weights = _read(weights)
    size = len(dataloader.dataset)  # type: ignore[arg-type]
    if len(weights) != size:
        raise ValueError(
            f"{len(weights)} weights for a training dataset of {size} samples: weights belong to the dataset that "
            "influence was computed on, one for each index"
        )
    if type(dataloader.batch_sampler) is not BatchSampler:
        raise TypeError(
            f"the train dataloader batches with {type(dataloader.batch_sampler).__name__}, which would not see the "
            "weights. Use batch_size=…, or build your batch sampler over ParetoSampler(weights)"
        )
    if not isinstance(dataloader.sampler, (RandomSampler, SequentialSampler, DistributedSampler)):
        warnings.warn(f"the weights replace your {type(dataloader.sampler).__name__}", stacklevel=2)
    return with_sampler(
        dataloader,
        ParetoSampler(weights, seed=seed),
        drop_last=dataloader.drop_last,
        generator=dataloader.generator,
    )


class ReweightedDataModule(pl.LightningDataModule):
    """The user's DataModule with its training samples drawn by weight; everything else is the user's own.

    Its other attributes are read and set through this one, hyper-parameters among them; only ``weights`` and ``seed``
    are those given here.

    Args:
        datamodule: the user's DataModule. Hooks that it does not define stay undefined.
        weights: one weight per training index, or the path of saved weights.
        seed: of the draws.

    Raises:
        TypeError: if it is not a LightningDataModule.
        ValueError: from ``train_dataloader``, if there are not as many weights as samples.
    """

    datamodule: pl.LightningDataModule
    weights: SampleWeights
    seed: int

    def __init__(self, datamodule: pl.LightningDataModule, weights: Weights, seed: int = 0) -> None:
        if not isinstance(datamodule, pl.LightningDataModule):
            raise TypeError(
                f"expected a LightningDataModule, found {type(datamodule).__name__}. For a DataLoader use "
                "reweighted_dataloader(dataloader, weights)"
            )
        super().__init__()
        self.__dict__.clear()  # trainer, prepare_data_per_node and their like are the user's DataModule's
        self.__dict__.update(datamodule=datamodule, weights=_read(weights), seed=seed)
        for name in _DELEGATED:
            if is_overridden(name, datamodule):
                setattr(self, name, getattr(datamodule, name))

    def __getattr__(self, name: str) -> Any:
        """Read what is not defined here from the user's DataModule."""
        if name.startswith("__") or "datamodule" not in self.__dict__:  # as while a copy is made
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.datamodule, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the user's DataModule there."""
        own = name in self.__dict__ or hasattr(type(self), name) or "datamodule" not in self.__dict__
        if own or not hasattr(self.datamodule, name):
            super().__setattr__(name, value)
        else:
            setattr(self.datamodule, name, value)

    @property
    def hparams(self) -> Any:
        """The user's hyper-parameters."""
        return self.datamodule.hparams

    @property
    def hparams_initial(self) -> Any:
        """The user's hyper-parameters as they were given."""
        return self.datamodule.hparams_initial

    def train_dataloader(self) -> "DataLoader[Any]":
        """The user's training loader, drawing by weight, from the trainer's epoch on when a fit is resumed."""
        loader = reweighted_dataloader(self.datamodule.train_dataloader(), self.weights, seed=self.seed)
        assert isinstance(loader.sampler, ParetoSampler)
        if self.trainer is not None:
            loader.sampler.set_epoch(_epoch_to_come(self.trainer))
        return loader


def _epoch_to_come(trainer: pl.Trainer) -> int:
    """The epoch that the next training batch belongs to.

    Lightning tells it to the sampler itself, but only when workers have drawn their first indices. In a checkpoint from
    the end of an epoch that epoch may be counted as processed, as completed, or only as having seen its last batch.
    """
    loop = trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    seen_whole = epoch.started > epoch.processed and loop.epoch_loop.batch_progress.is_last_batch
    return int(epoch.processed) + int(seen_whole)


def _read(weights: Weights) -> SampleWeights:
    if isinstance(weights, (str, os.PathLike)):
        return SampleWeights.load(weights)
    if isinstance(weights, InfluenceMatrix):
        raise TypeError("expected weights, found an InfluenceMatrix: weights = reweight(influence)")
    return weights if isinstance(weights, SampleWeights) else SampleWeights(weights)  # type: ignore[arg-type]
