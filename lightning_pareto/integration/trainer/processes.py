"""The trainer's processes: how they share the work, and which of them warns."""

import contextlib
import warnings
from collections.abc import Iterator

import lightning.pytorch as pl

from lightning_pareto.influence.sharding import Shard


def shard_of(trainer: pl.Trainer, module: pl.LightningModule) -> Shard:
    """This process's part of the work."""
    return Shard(trainer.global_rank, trainer.world_size, module.device)


@contextlib.contextmanager
def warnings_on_rank_zero(trainer: pl.Trainer) -> Iterator[None]:
    """Silence warnings on all processes but rank zero."""
    with warnings.catch_warnings():
        if not trainer.is_global_zero:
            warnings.simplefilter("ignore")
        yield
