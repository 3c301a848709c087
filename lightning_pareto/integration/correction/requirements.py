"""What a fit needs so that its epochs can be rerun, and the loader for a rerun."""

import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from lightning_pareto.data.loaders import check_map_style, with_sampler
from lightning_pareto.integration.trainer.internals import acts_on_validation_at_once
from lightning_pareto.integration.trainer.namespaces import is_a
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.sampling import ParetoSampler

_REPLACEABLE = (RandomSampler, SequentialSampler, DistributedSampler, ParetoSampler)


def check_fit(trainer: pl.Trainer) -> None:
    """Refuse a fit whose epochs cannot be rerun.

    Raises:
        ValueError: if epochs do not end with a validation, or the trainer does not sample.
        TypeError: if there are several training loaders, the loader has a sampler of the user's own, or a callback
            changes the schedulers during the fit.
    """
    options: Any = trainer
    interval = options.val_check_interval
    if options.check_val_every_n_epoch != 1 or not (isinstance(interval, float) and interval == 1.0):
        raise ValueError(
            "CourseCorrection compares one validation at the end of every epoch: use check_val_every_n_epoch=1 and "
            "val_check_interval=1.0, the defaults"
        )
    if options.overfit_batches > 0:
        raise ValueError("CourseCorrection cannot sample by weight under overfit_batches: remove one of them")
    for callback in options.callbacks:
        if is_a(callback, StochasticWeightAveraging):
            raise TypeError(
                "CourseCorrection cannot undo the start of StochasticWeightAveraging: use WeightAveraging or "
                "EMAWeightAveraging"
            )
        if acts_on_validation_at_once(callback):
            rank_zero_warn(
                f"{type(callback).__name__} acts on the validation of an epoch before CourseCorrection has decided "
                "whether to keep it: leave save_on_train_epoch_end and check_on_train_epoch_end at their defaults"
            )
    if isinstance(trainer.train_dataloader, (dict, list, tuple)):
        raise TypeError(
            f"CourseCorrection reruns an epoch with one training loader, but the fit has a "
            f"{type(trainer.train_dataloader).__name__} of {len(trainer.train_dataloader)}: use one loader, or remove "
            "the callback"
        )
    loader = check_map_style(trainer.train_dataloader, "the train dataloader")
    if type(loader.batch_sampler) is not BatchSampler or type(loader.sampler) not in _REPLACEABLE:
        own = loader.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
        raise TypeError(
            f"CourseCorrection would rerun an epoch without your {type(own).__name__}: use shuffle=True or "
            "ParetoSampler(weights)"
        )


def rerun_loader(trainer: pl.Trainer, weights: SampleWeights, seed: int) -> "DataLoader[Any]":
    """The trainer's training loader sampling by weight, with as many samples as in an ordinary epoch.

    If the loader samples by weight already, both weights are multiplied.
    """
    loader = check_map_style(trainer.train_dataloader, "the train dataloader")
    values, usual = weights.values, loader.sampler
    if isinstance(usual, ParetoSampler):
        values = values * usual.weights.values
    size, mine = len(values), len(usual)  # type: ignore[arg-type]
    draws = size if math.ceil(size / trainer.world_size) == mine else mine * trainer.world_size
    sampler = ParetoSampler(np.asarray(values * (draws / values.sum())), seed=seed)
    sampler.set_epoch(trainer.current_epoch)
    twin = with_sampler(loader, sampler, drop_last=loader.drop_last, generator=None)
    twin.__dict__["persistent_workers"] = False  # the loader is read once
    return twin
