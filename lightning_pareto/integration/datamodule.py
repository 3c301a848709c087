"""Weights into the user's data: a DataModule around theirs, or one DataLoader."""

import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler, Subset

from lightning_pareto.data.loaders import check_map_style, size_of_batches, with_sampler
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.trainer.namespaces import fitting, is_a
from lightning_pareto.integration.trainer.train_loaders import change_one, with_dataset
from lightning_pareto.reweighting.weighted_dataset import WeightedDataset
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.sampling import ParetoSampler

Weights = SampleWeights | Sequence[float] | npt.NDArray[Any] | Tensor | str | os.PathLike[str]
"""One weight per dataset index, or the path of saved weights."""

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

    Returns:
        A new loader over the same dataset.

    Raises:
        TypeError: if the loader's samples have no index, or it batches by a sampler of its own.
        ValueError: if there are not as many weights as samples, or the weights were made for other labels.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = reweighted_dataloader(DataLoader(range(4), batch_size=4), [0.0, 0.0, 2.0, 2.0])
        >>> sorted(next(iter(loader)).tolist())
        [2, 2, 3, 3]
    """
    check_map_style(dataloader, "the train dataloader")
    weights = _read(weights)
    weights.check_dataset(dataloader.dataset)
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

    Its other attributes are read and set through this one, hyper-parameters among them; only those given here are its
    own.

    A resumed fit goes on with the order of the epoch it was in, also from the middle of one, where Lightning by itself
    would begin the epoch's order again (it warns of that, since it cannot know). Under ``overfit_batches``, which wants
    the same few batches in every epoch, they are those of one weighted draw.

    Args:
        datamodule: the user's DataModule. Hooks that it does not define stay undefined.
        weights: one weight per training index, or the path of saved weights.
        seed: of the draws.
        loader: which of several train loaders the weights are for: its key in a dict, its number in a list.
        apply: ``"resampling"`` draws by weight. ``"loss"`` draws as the user does and hands every sample its weight
            instead, as ``batch["weight"]`` or the last element of the batch (see :class:`WeightedDataset`), for a
            ``training_step`` that multiplies its losses by it.

    Raises:
        TypeError: if it is not a LightningDataModule.
        ValueError: for another ``apply``; from ``train_dataloader``, if there are not as many weights as samples, they
            were made for other labels, or ``loader`` does not choose one of several.

    Example:
        >>> import torch
        >>> data = torch.utils.data.TensorDataset(torch.arange(4))
        >>> datamodule = pl.LightningDataModule.from_datasets(data)
        >>> loader = ReweightedDataModule(datamodule, [0.0, 0.0, 2.0, 2.0]).train_dataloader()
        >>> sorted(loader.sampler)
        [2, 2, 3, 3]
    """

    datamodule: pl.LightningDataModule
    weights: SampleWeights
    seed: int
    loader: str | int | None
    apply: Literal["resampling", "loss"]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the namespace, whose class has no name of its own."""
        return (
            _empty,
            (vars(type(self)).get("_named", type(self)), fitting(pl.LightningDataModule, self)),
            self.__dict__,
        )

    def __init__(
        self,
        datamodule: pl.LightningDataModule,
        weights: Weights,
        seed: int = 0,
        *,
        loader: str | int | None = None,
        apply: Literal["resampling", "loss"] = "resampling",
    ) -> None:
        if not is_a(datamodule, pl.LightningDataModule):
            raise TypeError(
                f"expected a LightningDataModule, found {type(datamodule).__name__}. For a DataLoader use "
                "reweighted_dataloader(dataloader, weights)"
            )
        if apply not in ("resampling", "loss"):
            raise ValueError(f"apply must be 'resampling' or 'loss', found {apply!r}")
        # in the namespace of the user's, lightning or pytorch_lightning; command lines would read a __new__ instead
        own, base = type(self), fitting(pl.LightningDataModule, datamodule)
        object.__setattr__(self, "__class__", _of_namespace(own, base))  # type: ignore[arg-type]  # they are hashable
        super().__init__()
        self.__dict__.clear()  # trainer, prepare_data_per_node and their like are the user's DataModule's
        self.__dict__.update(datamodule=datamodule, weights=_read(weights), seed=seed, loader=loader, apply=apply)
        for name in _DELEGATED:
            if is_overridden(name, datamodule, fitting(pl.LightningDataModule, datamodule)):
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

    def train_dataloader(self) -> Any:
        """The user's training loader, or loaders, one of them with the weights."""
        change = self._resampled if self.apply == "resampling" else self._weighted
        return change_one(self.datamodule.train_dataloader(), self.loader, change)

    def _weighted(self, loader: Any) -> "DataLoader[Any]":
        """The loader with a weight in every sample."""
        check_map_style(loader, "the train dataloader")
        return with_dataset(loader, WeightedDataset(loader.dataset, self.weights))

    def _resampled(self, loader: Any) -> "DataLoader[Any]":
        """The loader drawing by weight, from where the trainer is when a fit is resumed."""
        twin = reweighted_dataloader(loader, self.weights, seed=self.seed)
        sampler = twin.sampler
        assert isinstance(sampler, ParetoSampler)
        if self.trainer is None:
            return twin
        if self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            return _of_one_draw(twin, ParetoSampler(self.weights, num_replicas=1, rank=0, seed=self.seed))
        epoch, batches = _position(self.trainer)
        sampler.set_epoch(epoch)
        sampler.skip(batches % max(1, len(twin)) * size_of_batches(twin))
        return twin


@functools.cache
def _of_namespace(cls: Any, base: Any) -> Any:
    """``cls`` itself, or as a subclass of the other namespace's DataModule that keeps the latter's hooks."""
    if issubclass(cls, base):
        return cls
    hooks = {name: getattr(base, name) for name in _DELEGATED}
    return type(
        cls.__name__, (cls, base), {"_named": cls, "__module__": cls.__module__, "__doc__": cls.__doc__, **hooks}
    )


def _empty(cls: type[ReweightedDataModule], base: type[pl.LightningDataModule]) -> ReweightedDataModule:
    """An instance without attributes, for a copy."""
    kind: type[ReweightedDataModule] = _of_namespace(cls, base)  # type: ignore[arg-type]  # classes are hashable
    return object.__new__(kind)


def _of_one_draw(loader: "DataLoader[Any]", sampler: ParetoSampler) -> "DataLoader[Any]":
    """The loader over the samples of one draw, in a fixed order, which Lightning leaves as it is."""
    drawn = Subset(loader.dataset, list(sampler))
    fixed = with_sampler(loader, SequentialSampler(drawn), drop_last=loader.drop_last, generator=loader.generator)
    return with_dataset(fixed, drawn)


def _position(trainer: pl.Trainer) -> tuple[int, int]:
    """The epoch that the next training batch belongs to, and how many batches of it are done.

    Lightning tells the epoch to the sampler itself, but only when workers have drawn their first indices. In a
    checkpoint from the end of an epoch that epoch may be counted as processed, as completed, or only as having seen its
    last batch.
    """
    loop = trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    batches = loop.epoch_loop.batch_progress
    begun = epoch.started > epoch.processed
    if begun and not batches.is_last_batch:
        done: Any = batches.current
        return int(epoch.processed), int(done.processed)
    return int(epoch.processed) + int(begun), 0


def _read(weights: Weights) -> SampleWeights:
    if isinstance(weights, (str, os.PathLike)):
        return SampleWeights.load(weights)
    if isinstance(weights, InfluenceMatrix):
        raise TypeError("expected weights, found an InfluenceMatrix: weights = reweight(influence)")
    return weights if isinstance(weights, SampleWeights) else SampleWeights(np.asarray(weights))
