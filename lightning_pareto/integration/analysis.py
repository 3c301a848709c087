"""From a trainer that has just fitted a model to influence and verdict."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.estimate import InfluenceOptions, estimate_influence
from lightning_pareto.influence.gradients import evaluation_mode
from lightning_pareto.influence.layers import cover
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.models import best_checkpoint, weights_of
from lightning_pareto.integration.progress import progress_bar
from lightning_pareto.loaders import check_map_style
from lightning_pareto.pareto.verdict import ParetoVerdict, check_pareto


@dataclass(frozen=True)
class ParetoData:
    """Where the samples come from and how they are read; see :class:`ParetoCallback` for the fields."""

    task: ClassificationTask
    class_names: Sequence[str] | None
    categories: Categories | None
    category_names: Sequence[str] | None
    train_dataloader: Any
    val_dataloader_idx: int

    def train(self, trainer: pl.Trainer) -> "DataLoader[Any]":
        """The loader of the training samples.

        Raises:
            TypeError: if its samples have no index.
        """
        return check_map_style(self.train_dataloader or trainer.train_dataloader, "the train dataloader")

    def validation(self, trainer: pl.Trainer) -> "DataLoader[Any]":
        """The chosen validation loader.

        Raises:
            ValueError: if there is none.
            TypeError: if its samples have no index.
        """
        loaders = trainer.val_dataloaders
        if loaders is None or (isinstance(loaders, (list, tuple, dict)) and not loaders):
            raise ValueError(
                "ParetoCallback needs a validation set: trainer.fit(model, train_dataloader, val_dataloader) or a "
                "val_dataloader() in the DataModule or LightningModule, a validation_step() in the LightningModule (it "
                "may do nothing), and limit_val_batches other than 0"
            )
        if isinstance(loaders, dict):
            loaders = list(loaders.values())
        if isinstance(loaders, (list, tuple)):
            if not 0 <= self.val_dataloader_idx < len(loaders):
                raise ValueError(f"val_dataloader_idx={self.val_dataloader_idx}, but there are {len(loaders)} loaders")
            loaders = loaders[self.val_dataloader_idx]
        return check_map_style(loaders, "the validation dataloader")

    def names_of_classes(self, trainer: pl.Trainer, count: int) -> Sequence[str]:
        """Names of the classes as given, else ``dataset.classes`` if they fit, else numbers.

        Raises:
            ValueError: if the names given are not one per class.
        """
        if self.class_names is not None:
            if isinstance(self.class_names, str) or len(set(self.class_names)) != len(self.class_names):
                raise ValueError(f"class_names must be a list of different names, found {self.class_names!r}")
            if len(self.class_names) != count:
                raise ValueError(
                    f"{len(self.class_names)} class names for a model with {count} logits: give one for each"
                )
            return self.class_names
        found = getattr(getattr(trainer.train_dataloader, "dataset", None), "classes", None)
        if isinstance(found, (list, tuple)) and len(found) == count:
            return [str(name) for name in found]
        return [str(k) for k in range(count)]

    def check(self, trainer: pl.Trainer, module: pl.LightningModule) -> Sequence[str] | None:
        """Find what would make the analysis fail, on two samples and without a trace in any random state.

        Returns:
            The names of the categories, as far as they are known.

        Raises:
            BatchError: if a batch cannot be read.
            ValueError: if there is no validation set, a dataset is empty, the class names do not fit, or the module has
                no layer that can be covered.
            TypeError: if a loader's samples have no index, or the strategy shards the model.
        """
        _check_strategy(trainer)
        cover(module)
        train, validation = self.train(trainer), self.validation(trainer)
        transfer = _transfer(trainer, module)
        with isolate_rng(), torch.no_grad(), evaluation_mode(module), trainer.precision_plugin.forward_context():
            for loader in (train, validation):
                batch = transfer(_two_samples(loader))
                logits = self.task.read_logits(module, batch, self.task.read_targets(batch))
        names = self.names_of_classes(trainer, logits.shape[1])
        return names if self.categories is None else self.category_names


@dataclass(frozen=True)
class Analysis:
    """What the callback finds after a fit."""

    influence: InfluenceMatrix
    verdict: ParetoVerdict


def analyse(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: ParetoData,
    category_names: Sequence[str] | None,
    options: InfluenceOptions,
    budget: float,
    level: float,
    checkpoint: str,
) -> Analysis:
    """Estimate influence at the chosen weights, all processes together, and reach the verdict.

    Raises:
        Exception: whatever the estimate raises, on every process.
    """
    path = best_checkpoint(trainer) if checkpoint == "best" else None
    stage = trainer.state.stage
    trainer.validating = True  # the user's batch hooks must not augment
    try:
        with (
            _warnings_of_one(trainer),
            isolate_rng(),
            weights_of(module, path) as used,
            progress_bar(trainer) as progress,
        ):
            influence = estimate_influence(
                module,
                data.train(trainer),
                data.validation(trainer),
                task=data.task,
                categories=data.categories,
                class_names=category_names,
                shard=Shard(trainer.global_rank, trainer.world_size, module.device),
                transfer=_transfer(trainer, module),
                context=trainer.precision_plugin.forward_context,
                progress=progress,
                **asdict(options),
            )
    finally:
        trainer.state.stage = stage
    where = {"checkpoint": "last weights" if used is None else used.name}
    influence = replace(influence, metadata={**influence.metadata, **where})
    return Analysis(influence, check_pareto(influence, budget=budget, level=level))


@contextlib.contextmanager
def _warnings_of_one(trainer: pl.Trainer) -> Iterator[None]:
    """Let only rank zero warn."""
    with warnings.catch_warnings():
        if not trainer.is_global_zero:
            warnings.simplefilter("ignore")
        yield


def _check_strategy(trainer: pl.Trainer) -> None:
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise TypeError(
            f"ParetoCallback needs the whole model on every device, which {type(trainer.strategy).__name__} does not "
            'keep: use strategy="ddp" or a single device'
        )


def _transfer(trainer: pl.Trainer, module: pl.LightningModule) -> Callable[[Any], Any]:
    """Move a batch as the trainer does, with the hooks of the user's DataModule or LightningModule."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    owner = datamodule if datamodule and is_overridden("on_before_batch_transfer", datamodule) else module

    def transfer(batch: Any) -> Any:
        batch = trainer.precision_plugin.convert_input(batch)
        batch = owner.on_before_batch_transfer(batch, 0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    return transfer


def _two_samples(loader: "DataLoader[Any]") -> Any:
    dataset = loader.dataset
    indices = list(range(min(2, len(dataset))))  # type: ignore[arg-type]
    samples = dataset.__getitems__(indices) if hasattr(dataset, "__getitems__") else [dataset[i] for i in indices]
    return loader.collate_fn(samples)
