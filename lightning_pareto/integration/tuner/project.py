"""What every trial of a search fits."""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_pareto.evaluation.change import Tolerance
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.pareto.demand import Targets


@dataclass(frozen=True, kw_only=True)
class Project:
    """What every trial of a search fits, and how.

    Attributes:
        trainer_factory: makes a new Trainer, as for an ordinary fit.
        module: how every trial with the ``"initial"`` start begins. It is copied, never trained.
        datamodule: the data of an ordinary fit.
        callback: how batches are read, and the options of the analysis.
        seed: seed of every trial, so that trials differ in nothing but what is tried.
        targets: categories that must exist, checked before the first trial trains.
        tolerance: accuracy that categories may lose. Their names must exist likewise.
        include_validation: whether the last trial will train on all validation data.
        fingerprint: distinguishes searches that differ only in code or data.
    """

    trainer_factory: Callable[[], pl.Trainer]
    module: pl.LightningModule
    datamodule: pl.LightningDataModule
    callback: ParetoCallback
    seed: int = 0
    targets: Targets = None
    tolerance: Tolerance = 0.0
    include_validation: bool = False
    fingerprint: str = ""

    def copied_module(self) -> pl.LightningModule:
        """A copy for a trial, whose state nothing else shares. A TypeError says what to do if there is none."""
        try:
            return copy.deepcopy(self.module)
        except Exception as error:  # an attribute may raise anything
            raise TypeError(
                f"every trial needs a copy of {type(self.module).__name__}, and copy.deepcopy failed: {error}. "
                "Create what cannot be copied in configure_model() or setup(), or give the class a __deepcopy__"
            ) from error

    def description(self, trainer: pl.Trainer) -> str:
        """What makes this a different search, the same on every process: the model, its options and the Trainer's."""
        module, datamodule, callback = self.module, self.datamodule, self.callback
        values = module.state_dict().values()
        if any(torch.nn.parameter.is_lazy(value) for value in values):
            raise ValueError("the module has parameters without a shape: run one batch through it first")
        limits = (trainer.max_epochs, trainer.accumulate_grad_batches, trainer.limit_train_batches, trainer.precision)
        shapes = [tuple(value.shape) for value in values if isinstance(value, torch.Tensor)]
        names = [type(module).__qualname__, type(datamodule).__qualname__, str(module)]
        hparams = [_as_text(holder.hparams) for holder in (module, datamodule)]
        options = (callback.question.budget, asdict(callback.options.influence))
        read = (callback.data.class_names, callback.data.val_dataloader_idx)
        return repr((names, shapes, hparams, limits, read, options, self.fingerprint))


def _as_text(hparams: Any) -> str:
    """Hyper-parameters as a text that is the same in every process. Of an unusual value only the type is used."""
    return json.dumps(dict(hparams), default=lambda value: type(value).__qualname__, skipkeys=True, sort_keys=True)
