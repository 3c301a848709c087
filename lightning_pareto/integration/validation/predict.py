"""What a module predicts on the validation set, in index order and whatever the number of processes."""

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_pareto.data.loaders import with_sampler
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.integration.trainer.batches import only_reading, transfer_of
from lightning_pareto.integration.trainer.data_source import ParetoData
from lightning_pareto.integration.trainer.processes import shard_of


def outcome_of(trainer: pl.Trainer, module: pl.LightningModule, data: ParetoData) -> Outcome:
    """Predict every validation sample once, in evaluation mode; the processes share the work.

    Raises:
        BatchError: if a batch or the logits cannot be read.
        OtherProcessError: if another process failed.
    """
    shard = shard_of(trainer, module)
    with shard.agreement("prediction of the validation set"):
        table = _predict(trainer, module, data)
    category, correct, probability, classes = shard.sum(table).numpy()
    if data.categories is None:
        names: Sequence[str] = data.names_of_classes(trainer, int(classes.max()))
    else:
        names = data.category_names or [str(k) for k in range(int(category.max()) + 1)]
    return Outcome(category.astype(int), correct > 0, probability, tuple(map(str, names)))


def _predict(trainer: pl.Trainer, module: pl.LightningModule, data: ParetoData) -> Tensor:
    """Category, correctness, probability of the label and number of classes of this process's samples, (4, n)."""
    loader, transfer = data.validation(trainer), transfer_of(trainer, module, data.val_dataloader_idx)
    size = len(loader.dataset)  # type: ignore[arg-type]
    indices = shard_of(trainer, module).range(size)
    mine = with_sampler(loader, indices, drop_last=False, generator=torch.Generator())  # type: ignore[arg-type]
    table, start = torch.zeros(4, size, dtype=torch.float64), indices.start
    with only_reading(trainer, module):
        for moved in map(transfer, mine):
            targets = data.task.read_targets(moved)
            categories = targets if data.categories is None else data.categories(moved)
            logits = data.task.read_logits(module, moved, targets).double()
            probability = logits.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
            part = table[:, start : start + len(targets)]
            part[0], part[1] = categories.cpu(), (logits.argmax(dim=1) == targets).cpu()
            part[2], part[3] = probability.cpu(), logits.shape[1]
            start += len(targets)
    return table
