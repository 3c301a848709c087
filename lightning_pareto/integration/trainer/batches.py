"""Batches as the trainer would pass them to a validation step."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_pareto.influence.gradients import evaluation_mode
from lightning_pareto.integration.trainer.namespaces import counterpart


@contextlib.contextmanager
def validating(trainer: pl.Trainer) -> Iterator[None]:
    """Set the validating stage, in which the user's batch hooks do not augment, and restore the stage afterwards."""
    stage = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage


@contextlib.contextmanager
def read_only(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Run the module as in validation and leave no trace: no gradients, no changed modes, no changed random states."""
    with (
        isolate_rng(),
        torch.no_grad(),
        evaluation_mode(module),
        validating(trainer),
        trainer.precision_plugin.forward_context(),
    ):
        yield


def transfer_of(trainer: pl.Trainer, module: pl.LightningModule, dataloader_idx: int = 0) -> Callable[[Any], Any]:
    """Function that moves a batch as the trainer does, with the hooks of the user's DataModule or LightningModule."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    parent = counterpart(pl.LightningDataModule, datamodule)
    own = datamodule is not None and is_overridden("on_before_batch_transfer", datamodule, parent)
    owner = datamodule if own else module

    def transfer(batch: Any) -> Any:
        batch = trainer.precision_plugin.convert_input(batch)
        batch = owner.on_before_batch_transfer(batch, dataloader_idx)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=dataloader_idx)

    return transfer
