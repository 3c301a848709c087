"""Which validation samples the model gets right: during a validation epoch, or in a pass of its own."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from lightning_pareto.data.loaders import with_sampler
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.categories import names_of_categories, read_categories
from lightning_pareto.influence.measures import read_outcome
from lightning_pareto.integration.trainer.batches import read_only, transfer_of
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.processes import shard_of
from lightning_pareto.integration.validation.logits import Consumer

MOST_NUMBERED = 10_000
"""Categories without names that are accepted even if there are fewer samples, as in an epoch of few batches."""


class OutcomeRecorder(Consumer):
    """Records category, prediction and probability of the label of every validation sample.

    Args:
        source: how batches are read.
    """

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self._parts = [torch.empty(5, 0, dtype=torch.float64)]

    def update(self, batch: Any, logits: Tensor, targets: Tensor, count: int) -> None:
        """See :class:`Consumer`."""
        categories = self._source.categories
        category = targets if categories is None else read_categories(categories, batch, targets)
        part = torch.cat([category.cpu().double()[:, None], read_outcome(logits, targets).cpu()], dim=1).T
        classes = torch.full((1, part.shape[1]), float(logits.shape[1]), dtype=torch.float64)
        self._parts.append(torch.cat([part, classes])[:, :count])

    def outcome(self, trainer: pl.Trainer, module: pl.LightningModule) -> Outcome:
        """The outcome over all processes, one after the other. Every process has to call it.

        Raises:
            ValueError: if the categories do not fit their names. There must be at least one sample.
        """
        shard, mine = shard_of(trainer, module), torch.cat(self._parts, dim=1)
        sizes = torch.zeros(shard.count, dtype=torch.int64)
        sizes[shard.index] = mine.shape[1]
        sizes = shard.sum(sizes)
        table = torch.zeros(5, int(sizes.sum()), dtype=torch.float64)
        start = int(sizes[: shard.index].sum())
        table[:, start : start + mine.shape[1]] = mine
        category, predicted, correct, probability, classes = shard.sum(table).numpy()
        if self._source.categories is None:
            names = self._source.names_of_classes(trainer, int(classes.max()))
        else:
            most = max(len(category), MOST_NUMBERED)
            names = names_of_categories(torch.from_numpy(category), self._source.category_names, most)
        return Outcome(category.astype(int), correct > 0, probability, names, predicted.astype(int))


def state_of_outcome(outcome: Outcome | None) -> dict[str, Any] | None:
    """An outcome as a checkpoint can hold it and load it safely."""
    if outcome is None:
        return None
    given = {name: value for name, value in vars(outcome).items() if value is not None}
    return {n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in given.items()}


def outcome_of_state(state: dict[str, Any] | None) -> Outcome | None:
    """The outcome that :func:`state_of_outcome` was given."""
    if state is None:
        return None
    fields: dict[str, Any] = {n: v.numpy() if isinstance(v, Tensor) else tuple(v) for n, v in state.items()}
    return Outcome(**fields)


def measure_outcome(trainer: pl.Trainer, module: pl.LightningModule, source: DataSource) -> Outcome:
    """Predict every validation sample once, in index order and evaluation mode. The processes share the work.

    Raises:
        BatchError: if a batch or the logits cannot be read.
        OtherProcessError: if another process failed.
    """
    shard, recorder = shard_of(trainer, module), OutcomeRecorder(source)
    with shard.agreement("prediction of the validation set"):
        loader, transfer = source.validation(trainer), transfer_of(trainer, module, source.val_dataloader_idx)
        indices: Any = shard.range(len(loader.dataset))  # type: ignore[arg-type]
        mine = with_sampler(loader, indices, drop_last=False, generator=torch.Generator())
        with read_only(trainer, module):
            for batch in map(transfer, mine):
                targets = source.task.read_targets(batch)
                logits = source.task.read_logits(module, batch, targets)
                recorder.update(batch, logits, targets, len(targets))
    return recorder.outcome(trainer, module)
