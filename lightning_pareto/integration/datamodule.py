"""Puts weights into the user's data: a wrapper around a DataModule, or one DataLoader."""

import functools
import os
from collections.abc import Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)

from lightning_pareto.data.loaders import check_map_style, sampling_weights, size_of_batches, with_sampler
from lightning_pareto.data.unchanged import unchanged
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.trainer.namespaces import counterpart, is_a
from lightning_pareto.integration.trainer.train_loaders import replace_loader, with_dataset
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
    """Return a DataLoader like ``dataloader`` that draws its samples by weight.

    Batch size, collate function, workers, pinning, generator and ``drop_last`` are kept. Pass it to ``trainer.fit``
    instead of the original, on one process or several.

    The weights multiply those of a WeightedRandomSampler or ParetoSampler. They replace them if they come from a fit
    with that sampler and so already start from its weights. A ``num_samples`` of the user's stays the length of an
    epoch.

    Args:
        dataloader: a training loader over a map-style dataset.
        weights: one weight per dataset index, or the path of saved weights.
        seed: seed of the draws, the same on all processes.

    Returns:
        A new loader over the same dataset.

    Raises:
        TypeError: if the loader's samples have no index, or it has a batch sampler or sampler of its own.
        ValueError: if there is not one weight for each sample, or the weights were made for other labels.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = reweighted_dataloader(DataLoader(range(4), batch_size=4), [0.0, 0.0, 2.0, 2.0])
        >>> sorted(next(iter(loader)).tolist())
        [2, 2, 3, 3]
    """
    check_map_style(dataloader, "the train dataloader")
    weights = _read(weights)
    _check_loader(weights, dataloader)
    if type(dataloader.batch_sampler) is not BatchSampler:
        raise TypeError(
            f"the train dataloader has a {type(dataloader.batch_sampler).__name__}, which would ignore the weights. "
            "Use batch_size=…, or build your batch sampler on ParetoSampler(weights)"
        )
    return with_sampler(
        dataloader,
        ParetoSampler(_sampling_weights(dataloader.sampler, weights), seed=seed),
        drop_last=dataloader.drop_last,
        generator=dataloader.generator,
    )


def _sampling_weights(sampler: Any, weights: SampleWeights) -> SampleWeights:
    """Weights whose draws combine the user's sampler with ``weights``, in an epoch of the sampler's length.

    Raises:
        TypeError: for a sampler whose way of drawing is unknown.
        ValueError: if no sample has both weights above zero.
    """
    values, draw = weights.values, type(sampler).__iter__  # a subclass may draw in a way of its own
    own = sampling_weights(sampler)
    if own is not None and draw in (WeightedRandomSampler.__iter__, ParetoSampler.__iter__):
        draws = round(own.sum()) if draw is ParetoSampler.__iter__ else sampler.num_samples
        own = np.ones(len(values)) if weights.replaces_others else own
    elif draw is RandomSampler.__iter__ and sampler.num_samples != len(values):
        own, draws = np.ones(len(values)), sampler.num_samples
    elif draw in (RandomSampler.__iter__, SequentialSampler.__iter__, DistributedSampler.__iter__):
        return weights
    else:
        raise TypeError(
            f"the train dataloader draws with a {type(sampler).__name__}, which the weights would replace. Use "
            "shuffle=True, a WeightedRandomSampler, or weights in the loss: ReweightedDataModule(…, apply='loss')"
        )
    combined = values * own
    if not combined.any():
        raise ValueError(f"no sample has a weight above zero both here and in the {type(sampler).__name__}")
    return SampleWeights(combined * (draws * values.mean() / combined.sum()))


class ReweightedDataModule(pl.LightningDataModule):
    """The user's DataModule with its training samples drawn by weight. Everything else is the user's own.

    All other attributes, hyper-parameters included, are read from and written to the user's DataModule.

    A resumed fit continues with the order of the epoch it was in, even in the middle of that epoch. (Lightning alone
    would start the order again, and warns about that because it cannot know.) Under ``overfit_batches``, which needs
    the same few batches in every epoch, these come from one weighted draw.

    Args:
        datamodule: the user's DataModule. Hooks that it does not define stay undefined.
        weights: one weight per training index, or the path of saved weights.
        seed: seed of the draws.
        loader: which of several train loaders the weights are for: its key in a dict, its number in a list.
        apply: ``"resampling"`` draws samples by weight. ``"loss"`` draws them as usual and adds the weight to every
            sample, as ``batch["weight"]`` or the last element of the batch (see :class:`WeightedDataset`). The
            ``training_step`` then has to multiply its losses by it.

    Raises:
        TypeError: if it is not a LightningDataModule.
        ValueError: for another ``apply``; from ``train_dataloader``, if there is not one weight for each sample, the
            weights were made for other labels, or ``loader`` does not choose one of several loaders.

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
        super().__init__()
        self.__dict__.clear()  # trainer, prepare_data_per_node and others belong to the user's DataModule
        self.__dict__.update(datamodule=datamodule, weights=_read(weights), seed=seed, loader=loader, apply=apply)
        for name in _DELEGATED:
            if is_overridden(name, datamodule, counterpart(pl.LightningDataModule, datamodule)):
                setattr(self, name, getattr(datamodule, name))

    def __new__(cls, datamodule: Any, *_args: Any, **_options: Any) -> "ReweightedDataModule":
        """An instance that Lightning recognises under the name from which the user's DataModule was imported."""
        return _empty(cls, counterpart(pl.LightningDataModule, datamodule))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle without the class made for ``pytorch_lightning``, which cannot be imported by name."""
        cls = ReweightedDataModule if type(self).__qualname__ == "ReweightedDataModule" else type(self)
        return _empty, (cls, counterpart(pl.LightningDataModule, self)), self.__dict__

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
        replacement = self._resampled if self.apply == "resampling" else self._weighted
        return replace_loader(self.datamodule.train_dataloader(), self.loader, replacement)

    def _weighted(self, loader: Any) -> "DataLoader[Any]":
        """The loader with a weight in every sample."""
        _check_loader(self.weights, check_map_style(loader, "the train dataloader"))
        return with_dataset(loader, WeightedDataset(loader.dataset, self.weights))

    def _resampled(self, loader: Any) -> "DataLoader[Any]":
        """The loader drawing by weight, from the current position of a resumed fit."""
        twin = reweighted_dataloader(loader, self.weights, seed=self.seed)
        sampler = twin.sampler
        assert isinstance(sampler, ParetoSampler)
        if self.trainer is None:
            return twin
        if self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            return _of_one_draw(twin, ParetoSampler(sampler.weights, num_replicas=1, rank=0, seed=self.seed))
        epoch, batches = _position(self.trainer)
        sampler.set_epoch(epoch)
        sampler.skip(batches % max(1, len(twin)) * size_of_batches(twin))
        return twin


# Command lines read the signature of __new__ rather than that of __init__.
functools.update_wrapper(ReweightedDataModule.__new__, ReweightedDataModule.__init__)


@functools.cache
def _of_namespace(cls: Any, base: Any) -> Any:
    """``cls`` itself, or a subclass of it and of the other namespace's DataModule, with the latter's hooks."""
    if issubclass(cls, base):
        return cls
    hooks = {name: getattr(base, name) for name in _DELEGATED}
    return type(cls.__name__, (cls, base), {"__module__": cls.__module__, "__doc__": cls.__doc__, **hooks})


def _empty(cls: type[ReweightedDataModule], base: type[pl.LightningDataModule]) -> ReweightedDataModule:
    """An instance without attributes."""
    kind: type[ReweightedDataModule] = _of_namespace(cls, base)  # type: ignore[arg-type]  # classes are hashable
    return object.__new__(kind)


def _of_one_draw(loader: "DataLoader[Any]", sampler: ParetoSampler) -> "DataLoader[Any]":
    """The loader over the samples of one draw in a fixed order, which Lightning leaves as it is."""
    drawn = Subset(loader.dataset, list(sampler))
    fixed = with_sampler(loader, SequentialSampler(drawn), drop_last=loader.drop_last, generator=loader.generator)
    return with_dataset(fixed, drawn)


def _position(trainer: pl.Trainer) -> tuple[int, int]:
    """The epoch that the next training batch belongs to, and how many batches of it are done.

    Lightning sets the sampler's epoch too, but only after workers have drawn their first indices. In a checkpoint from
    the end of an epoch, that epoch may count as processed, as completed, or only as having seen its last batch.
    """
    loop = trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    batches = loop.epoch_loop.batch_progress
    begun = epoch.started > epoch.processed
    if begun and not batches.is_last_batch:
        done: Any = batches.current
        return int(epoch.processed), int(done.processed)
    return int(epoch.processed) + int(begun), 0


def _check_loader(weights: SampleWeights, loader: "DataLoader[Any]") -> None:
    with isolate_rng(), unchanged(loader.dataset):
        weights.check_loader(loader)


def _read(weights: Weights) -> SampleWeights:
    if isinstance(weights, (str, os.PathLike)):
        return SampleWeights.load(weights)
    if isinstance(weights, InfluenceMatrix):
        raise TypeError("expected weights, found an InfluenceMatrix: weights = reweight(influence)")
    return weights if isinstance(weights, SampleWeights) else SampleWeights(np.asarray(weights))
