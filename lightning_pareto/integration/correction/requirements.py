"""What an epoch has to be like to be taken again, and the loader that it is taken again with."""

import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from lightning_pareto.data.loaders import check_map_style, with_sampler
from lightning_pareto.integration.correction.epoch_rerun import sees_validation_first
from lightning_pareto.integration.trainer.namespaces import is_a
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.sampling import ParetoSampler

_OWN = (RandomSampler, SequentialSampler, DistributedSampler, ParetoSampler)


def check_fit(trainer: pl.Trainer) -> None:
    """Refuse a fit whose epochs cannot be taken again.

    Raises:
        ValueError: if epochs do not end with a validation, or the trainer does not sample.
        TypeError: if there are several training loaders, the one cannot draw by weight without losing what is the
            user's own, or a callback changes the schedulers under way.
    """
    options: Any = trainer
    interval = options.val_check_interval
    if options.check_val_every_n_epoch != 1 or not (isinstance(interval, float) and interval == 1.0):
        raise ValueError(
            "CourseCorrection compares one validation at the end of every epoch: use check_val_every_n_epoch=1 and "
            "val_check_interval=1.0, the defaults"
        )
    if options.overfit_batches > 0:
        raise ValueError("CourseCorrection cannot draw by weight under overfit_batches: leave one of them out")
    for callback in options.callbacks:
        if is_a(callback, StochasticWeightAveraging):
            raise TypeError(
                "CourseCorrection cannot go back over the start of StochasticWeightAveraging: use WeightAveraging or "
                "EMAWeightAveraging"
            )
        if sees_validation_first(callback):
            rank_zero_warn(
                f"{type(callback).__name__} acts on the validation of an epoch before CourseCorrection has decided "
                "whether to keep it: leave save_on_train_epoch_end and check_on_train_epoch_end at their defaults"
            )
    if isinstance(trainer.train_dataloader, (dict, list, tuple)):
        raise TypeError(
            f"CourseCorrection takes an epoch again with one training loader, the fit has a "
            f"{type(trainer.train_dataloader).__name__} of {len(trainer.train_dataloader)}: use one, or leave it out"
        )
    loader = check_map_style(trainer.train_dataloader, "the train dataloader")
    if type(loader.batch_sampler) is not BatchSampler or type(loader.sampler) not in _OWN:
        own = loader.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
        raise TypeError(
            f"CourseCorrection would take an epoch again without your {type(own).__name__}: use shuffle=True or "
            "ParetoSampler(weights)"
        )


def reweighted_take(trainer: pl.Trainer, weights: SampleWeights, seed: int) -> "DataLoader[Any]":
    """The trainer's own training loader drawing by weight, as many samples as it has in an ordinary epoch.

    Weights that the loader draws by already are multiplied with these.
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
    twin.__dict__["persistent_workers"] = False  # this loader is read once
    return twin
