"""The callback: class-wise metrics during a fit, influence and verdict after it."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.estimate import CurvatureName, InfluenceOptions
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.influence.sharding import OtherProcessError
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.analysis import Analysis, ParetoData, analyse
from lightning_pareto.integration.classwise import ClasswiseAccuracy, named_values
from lightning_pareto.integration.mailbox import Mailbox
from lightning_pareto.pareto.verdict import ParetoVerdict, check_options

INFLUENCE_FILE = "influence.safetensors"
VERDICT_FILE = "verdict.safetensors"


class ParetoCallback(pl.Callback):
    """Logs class-wise accuracy while a classifier is fitted, and says afterwards whether every class can still gain.

    Add it to a ``Trainer``; the LightningModule stays as it is. Each validation epoch logs ``val_accuracy/<class>``,
    ``val_support/<class>``, ``val_accuracy_macro`` and ``val_accuracy_worst`` to every logger (a class without samples
    logs no accuracy). After the fit it estimates the influence of every training sample on every category of the
    validation set, reaches a verdict, prints it on rank zero, logs its figures as ``pareto/…`` and keeps both as
    ``.influence`` and ``.verdict`` and on disk.

    What can be wrong with the data is checked before the first training step. An error after the fit never loses the
    trained model: it becomes a warning, and is raised again when the missing result is asked for.

    Args:
        task: how to read a batch; the default serves ``(x, y)`` batches with logits from ``forward`` and dict batches
            with ``labels`` and an output with ``.logits``.
        class_names: names of the classes; ``dataset.classes`` where there are, else numbers.
        categories: function of a validation batch returning (B,) integers, to ask about groups other than the classes.
        category_names: their names.
        curvature: see :func:`estimate_influence`.
        measure: ``"loss"`` or ``"soft_error"``.
        damping: λ as a share of each layer's mean eigenvalue.
        folds: parts of the validation set for cross-fitting, at least 2 for a verdict that proves anything.
        budget: share of the training mass that may move, see :func:`check_pareto`.
        level: of the verdict's test.
        checkpoint: take influence at the ``"best"`` weights by a monitoring ModelCheckpoint, where there is one, or at
            the ``"last"``.
        train_dataloader: read the training samples from this loader instead of the trainer's, for instance one without
            augmentation; its dataset must have the same indices.
        val_dataloader_idx: which of several validation loaders to use.
        dirpath: where the results are written; ``pareto`` under the trainer's log directory by default.
        seed: of the Fisher labels and the folds.
        analyse: compute influence and verdict after the fit; False only logs class-wise accuracy, as for a second fit.
        verbose: print the verdict.

    Raises:
        ValueError: for options out of range.
    """

    def __init__(
        self,
        *,
        task: ClassificationTask | None = None,
        class_names: Sequence[str] | None = None,
        categories: Categories | None = None,
        category_names: Sequence[str] | None = None,
        curvature: CurvatureName = "ekfac",
        measure: MeasureName = "loss",
        damping: float = 0.1,
        folds: int = 8,
        budget: float = 0.2,
        level: float = 0.05,
        checkpoint: Literal["best", "last"] = "best",
        train_dataloader: Any = None,
        val_dataloader_idx: int = 0,
        dirpath: str | Path | None = None,
        seed: int = 0,
        analyse: bool = True,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        if checkpoint not in ("best", "last"):
            raise ValueError(f"checkpoint must be 'best' or 'last', found {checkpoint!r}")
        self.options = InfluenceOptions(curvature, measure, damping, folds, seed)
        self.data = ParetoData(
            task or ClassificationTask(), class_names, categories, category_names, train_dataloader, val_dataloader_idx
        )
        check_options(budget, level)
        self.budget = budget
        self.level = level
        self.checkpoint = checkpoint
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.analyse = analyse
        self.verbose = verbose
        self._classwise: ClasswiseAccuracy | None = None
        self._analysis: Analysis | None = None
        self._error: Exception | None = None
        self._folder = Path()
        self._categories: Sequence[str] | None = None
        self._mailbox = Mailbox()

    @property
    def influence(self) -> InfluenceMatrix:
        """The influence matrix of the last fit.

        Raises:
            RuntimeError: if there is none, with the error that prevented it.
        """
        return self._analysis.influence if self._analysis else InfluenceMatrix.load(self._file(INFLUENCE_FILE))

    @property
    def verdict(self) -> ParetoVerdict:
        """The verdict of the last fit.

        Raises:
            RuntimeError: if there is none, with the error that prevented it.
        """
        return self._analysis.verdict if self._analysis else ParetoVerdict.load(self._file(VERDICT_FILE))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check data, labels and strategy before any training."""
        self._analysis = self._error = None
        self._mailbox.clear()
        self._folder = self.dirpath or Path(trainer.log_dir or trainer.default_root_dir) / "pareto"
        if self._wanted(trainer):
            self._categories = self.data.check(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen to the logits of the chosen validation loader."""
        if dataloader_idx == self.data.val_dataloader_idx:
            if self._classwise is None:
                self._classwise = ClasswiseAccuracy(self.data.task)
            self._classwise.listen(pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch's predictions."""
        if dataloader_idx == self.data.val_dataloader_idx and self._classwise is not None:
            self._classwise.update(pl_module, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log class-wise accuracy and support."""
        if self._classwise is None:
            return
        counts = self._classwise.compute()
        if counts is not None and not trainer.sanity_checking:
            names = self.data.names_of_classes(trainer, len(counts[0]))
            pl_module.log_dict(named_values(*counts, names), sync_dist=trainer.world_size > 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute, keep, log and print the results; an error becomes a warning."""
        if not self._wanted(trainer) or trainer.interrupted:
            return
        try:
            self._analysis = analyse(
                trainer, pl_module, self.data, self._categories, self.options, self.budget, self.level, self.checkpoint
            )
            self._log(trainer, self._analysis.verdict)
            if trainer.is_global_zero:
                self._publish(self._analysis)
        except Exception as error:
            self._error = error
            if trainer.is_global_zero or not isinstance(error, OtherProcessError):
                warnings.warn(
                    f"ParetoCallback failed after the fit, the trained model is untouched: {error}", stacklevel=2
                )

    def _wanted(self, trainer: pl.Trainer) -> bool:
        return self.analyse and not getattr(trainer, "fast_dev_run", False)

    def _publish(self, analysis: Analysis) -> None:
        try:
            analysis.influence.save(self._folder / INFLUENCE_FILE)
            analysis.verdict.save(self._folder / VERDICT_FILE)
            self._mailbox.put(str(self._folder.resolve()))
            where = f"Influence and verdict: {self._folder}"
        except OSError as error:
            rank_zero_warn(f"no results could be written to {self._folder}, they are in memory only: {error}")
            where = ""
        if self.verbose:
            print(f"\n{analysis.verdict}\n\n{where}\n", flush=True)  # noqa: T201

    def _log(self, trainer: pl.Trainer, verdict: ParetoVerdict) -> None:
        values = {
            "pareto/improvable": float(verdict.improvable),
            "pareto/headroom": verdict.headroom,
            "pareto/p_value": verdict.p_value,
            **{
                f"pareto/held_out_gain/{name}": float(gain)
                for name, gain in zip(verdict.class_names, verdict.held_out_gain, strict=True)
            },
        }
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def _file(self, name: str) -> Path:
        """Where a result of the last fit lies that another process computed."""
        if self._error is not None:
            raise RuntimeError("the last fit left no result, for the error above") from self._error
        directory = self._mailbox.get()
        if not directory or not (Path(directory) / name).is_file():
            raise RuntimeError(
                "there is no result: fit a Trainer with this callback first, and look at its warnings. None is "
                "computed with analyse=False or fast_dev_run, or if the fit trained nothing or was interrupted"
            )
        return Path(directory) / name
