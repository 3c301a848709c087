"""Where a callback's samples come from and how they are read."""

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from lightning_pareto.arguments import checked_names
from lightning_pareto.data.labels import stored_class_names
from lightning_pareto.data.loaders import check_map_style, sampling_weights
from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.trainer.internals import own_sampler, validation_dataloaders
from lightning_pareto.reweighting.weighted_dataset import WeightedDataset


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where samples come from and how they are read; see :class:`ParetoCallback` for the other fields.

    Attributes:
        owner: name of the callback, for errors.
    """

    task: ClassificationTask = field(default_factory=ClassificationTask)
    class_names: Sequence[str] | None = None
    categories: Categories | None = None
    category_names: Sequence[str] | None = None
    train_dataloader: Any = None
    val_dataloader_idx: int = 0
    preview: Callable[[Any], Any] | None = None
    owner: str = "ParetoCallback"

    def train(self, trainer: pl.Trainer) -> "DataLoader[Any]":
        """The loader of the training samples.

        Raises:
            TypeError: if its samples have no index.
            ValueError: if there is none, or the callback's own loader has another number of samples than the trainer's.
        """
        if self._train(trainer) is None:
            raise ValueError(
                "there is no training set, and influence is that of its samples. Pass train_dataloaders to "
                "trainer.fit(), or define train_dataloader() in the DataModule or LightningModule. limit_train_batches "
                "must not be 0"
            )
        own = check_map_style(self._train(trainer), "the train dataloader")
        fitted = getattr(trainer.train_dataloader, "dataset", None)
        size = len(own.dataset)  # type: ignore[arg-type]
        if self.train_dataloader is not None and isinstance(fitted, Sized) and len(fitted) != size:
            raise ValueError(
                f"{self.owner}(train_dataloader=…) reads {size} samples, but the fit reads {len(fitted)}. Both must "
                "have the same samples in the same order, since influence and weights belong to dataset indices"
            )
        return own

    def validation(self, trainer: pl.Trainer) -> "DataLoader[Any]":
        """The chosen validation loader.

        Raises:
            ValueError: if there is none.
            TypeError: if its samples have no index.
        """
        loaders = validation_loaders(trainer)
        if not loaders:
            raise ValueError(
                "there is no validation set, and without it nothing is known about any class. Pass val_dataloaders to "
                "trainer.fit(), or define val_dataloader() in the DataModule or LightningModule. The LightningModule "
                "also needs a validation_step() (it may do nothing), and limit_val_batches must not be 0"
            )
        if not 0 <= self.val_dataloader_idx < len(loaders):
            raise ValueError(f"val_dataloader_idx={self.val_dataloader_idx}, but there are {len(loaders)} loaders")
        return check_map_style(self.watched(trainer), "the validation dataloader")

    def watched(self, trainer: pl.Trainer) -> Any:
        """The validation loader whose epochs are watched, of whatever kind; None if there is none."""
        return dict(enumerate(validation_loaders(trainer))).get(self.val_dataloader_idx)

    def weights_of_fit(self, trainer: pl.Trainer) -> npt.NDArray[np.float64] | None:
        """Weights of the samples in the trainer's training loader, by sampling or in the loss, (N,); None if equal."""
        loader = trainer.train_dataloader
        if not isinstance(loader, DataLoader):
            return None
        in_loss = loader.dataset.weights.values if isinstance(loader.dataset, WeightedDataset) else None
        drawn = sampling_weights(own_sampler(loader))
        return drawn if in_loss is None else in_loss if drawn is None else drawn * in_loss

    def names_of_classes(self, trainer: pl.Trainer, count: int) -> tuple[str, ...]:
        """Names of the classes: those given, else ``dataset.classes`` if they fit, else numbers.

        Raises:
            ValueError: if there is not one name given for each class.
        """
        if self.class_names is not None:
            names = checked_names(self.class_names)
            if len(names) != count:
                raise ValueError(f"{len(names)} class names for a model with {count} logits: give one for each")
            return names
        for loader in (self._train(trainer), self.watched(trainer)):
            stored = stored_class_names(getattr(loader, "dataset", None), count)
            if stored is not None:
                return tuple(stored)
        return tuple(map(str, range(count)))

    def _train(self, trainer: pl.Trainer) -> Any:
        return trainer.train_dataloader if self.train_dataloader is None else self.train_dataloader


def validation_loaders(trainer: pl.Trainer) -> list[Any]:
    """All validation loaders that the trainer has set up, in order."""
    loaders = validation_dataloaders(trainer)
    if loaders is None:
        return []
    if isinstance(loaders, dict):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]
