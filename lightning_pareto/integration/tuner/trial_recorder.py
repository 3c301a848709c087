"""The callback that watches a trial: it counts epochs, measures the model at the end and writes the result."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_pareto.data.labels import fingerprint_of_labels
from lightning_pareto.evaluation.change import Tolerance, tolerance_of
from lightning_pareto.influence.fingerprint import fingerprint_of
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.analysis.checkpoints import weights_of
from lightning_pareto.integration.analysis.checks import check_data, check_strategy
from lightning_pareto.integration.analysis.loss_check import LossComparison
from lightning_pareto.integration.analysis.previews import save_previews
from lightning_pareto.integration.analysis.run import influence_of
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.trainer.namespaces import counterpart
from lightning_pareto.integration.trainer.processes import rank_zero_warn, shard_of
from lightning_pareto.integration.tuner.remedies import apply
from lightning_pareto.integration.tuner.starting_checkpoint import epochs_seen
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.integration.tuner.validation_data import check_sampler
from lightning_pareto.integration.validation.outcomes import measure_outcome
from lightning_pareto.pareto.demand import Targets, chosen_categories
from lightning_pareto.storage.run_folders import INFLUENCE_FILE


@dataclass(frozen=True, kw_only=True)
class Expectations:
    """What a search expects of the data of its trials.

    Attributes:
        data: fingerprint of the data of earlier trials; empty before the first.
        targets: categories that must exist, if the training data are those of an ordinary fit.
        tolerance: accuracy that categories may lose. Their names must exist likewise.
        include_validation: whether a later fit of the search will train on all validation data.
    """

    data: str = ""
    targets: Targets = None
    tolerance: Tolerance = 0.0
    include_validation: bool = False


class TrialRecorder(pl.Callback):
    """Writes the result of the fit that it watches.

    Args:
        trial: the fit.
        key: identifies the trial.
        folder: where the result is written.
        callback: how batches are read and influence is estimated.
        best: keeps the checkpoints of a complete fit.
        expectations: what the search expects of the data.

    Attributes:
        influence: the influence, if it could not be written to disk.
        result: the result of the trial, if it could not be written to disk.
    """

    def __init__(
        self,
        trial: Trial,
        key: str,
        folder: Path,
        *,
        callback: ParetoCallback,
        best: ModelCheckpoint | None,
        expectations: Expectations,
    ) -> None:
        self._trial, self._key, self._folder = trial, key, folder
        self._callback, self._data = callback, callback.data
        if trial.joins is not None:  # a loader for influence alone has fewer samples
            self._data = replace(self._data, train_dataloader=None)
        self._best = best
        self._expectations = expectations
        self._stop_after = trial.stops_after
        self._fingerprint = ""
        self._proposed: npt.NDArray[np.float64] | None = None
        self.influence: InfluenceMatrix | None = None
        self.result: TrialResult | None = None
        self._process = os.getpid()
        self._begun = 0  # epochs behind the checkpoint that the trial starts from
        self._history: list[float] = []
        self._category_names: Any = None

    @property
    def _epochs(self) -> int | None:
        """Epochs to train from a checkpoint; None for a complete fit."""
        return self._trial.epochs if self._trial.start == "checkpoint" else None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a strategy under which influence cannot be computed."""
        check_strategy(trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """End the fit some epochs after the checkpoint. The schedules need not know."""
        if self._epochs is not None:
            self._begun = epochs_seen(checkpoint)
            self._stop_after = self._begun + self._epochs
            trainer.fit_loop.max_epochs = max(trainer.max_epochs or 0, self._begun + max(self._epochs, 1))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the data, estimate influence if asked to, and stop again if there is nothing to train."""
        self._category_names = check_data(trainer, pl_module, self._data, None, joined=self._trial.joins is not None)
        if self._category_names is not None and self._trial.joins is None:
            chosen_categories(self._category_names, self._expectations.targets)
            tolerance_of(self._expectations.tolerance, self._category_names)
        self._check_same_data(trainer)
        if self._expectations.include_validation and not self._expectations.data:
            warn_of_plateaus(trainer)
            check_sampler(trainer.train_dataloader)
        if self._trial.analyse:
            self._estimate_influence(trainer, pl_module)
        if self._trial.remedy is not None:
            remedy = self._trial.remedy
            self._proposed = apply(trainer, pl_module, self._data, self._callback.options, remedy)
        if self._epochs == 0:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop where the trial ends."""
        if self._stop_after and trainer.current_epoch + 1 >= self._stop_after:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the mean accuracy."""
        monitor = monitor_of(self._callback)
        if not trainer.sanity_checking and monitor in trainer.callback_metrics:
            self._history.append(float(trainer.callback_metrics[monitor]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the model at its best epoch and write the result. No process leaves before it is written."""
        trained = trainer.current_epoch - self._begun if self._epochs != 0 else 0
        best, kept = self._kept(trainer)
        with weights_of(pl_module, best, shard_of(trainer, pl_module)) as used:
            if used != best:
                raise RuntimeError(f"the checkpoint {best} cannot be loaded, for the reason in the warning above")
            outcome = measure_outcome(trainer, pl_module, self._data)
        remedy = self._trial.remedy
        if remedy is not None and not self._trial.unmeasured:
            outcome = outcome.on(~remedy.known)
        end = self._folder / "end.ckpt" if self._trial.keeps and not self._trial.complete else None
        if end is not None:
            trainer.save_checkpoint(end)
        result = TrialResult(
            name=self._trial.name,
            outcome=outcome,
            epochs=trained,
            best_epoch=_epoch_of(best) if best else self._begun + trained,
            history=np.array(self._history),
            checkpoint=Path(best) if best else end,
            next_checkpoint=next((Path(path) for path in kept if _epoch_of(path) < trained), None),
            data=self._fingerprint,
            proposed=self._proposed,
        )
        if trainer.is_global_zero and (
            self.influence is not None  # a result on disk implies that the whole trial is on disk
            or not self._written(trainer, "result", lambda: result.save(self._folder, self._key))
        ):
            self.result = result
        trainer.strategy.barrier()

    def _estimate_influence(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        callback = self._callback
        LossComparison(self._data.task).compare_now(trainer, module, self._data)
        influence = influence_of(
            trainer,
            module,
            self._data,
            replace(callback.options, checkpoint="last"),
            category_names=self._category_names,
            folder=self._folder,
            metadata=callback.question.metadata,
        )
        if trainer.is_global_zero:
            if not self._written(trainer, "influence", lambda: influence.save(self._folder / INFLUENCE_FILE)):
                self.influence = influence
            save_previews(trainer, self._data, influence, self._folder)

    def _written(self, trainer: pl.Trainer, what: str, write: Callable[[], Any]) -> bool:
        """Write something. A single process can continue with what it has in memory if that fails; returns False then.

        Raises:
            OSError: if another process has to read it from disk, be it only the one that launched this one.
        """
        try:
            write()
        except OSError as error:
            if trainer.world_size > 1 or os.getpid() != self._process:
                raise
            rank_zero_warn(
                f"the {what} of the trial {self._trial.name!r} could not be written and is in memory only ({error}). "
                "The search continues, but would repeat this trial after an interruption. Free some space there"
            )
            return False
        return True

    def _kept(self, trainer: pl.Trainer) -> tuple[str | None, list[str]]:
        """Path of the best checkpoint and of all, the best first, as rank zero knows them."""
        if self._best is None:
            return None, []
        scores = {path: float(score) for path, score in self._best.best_k_models.items()}
        kept: list[str] = trainer.strategy.broadcast(sorted(scores, key=lambda path: -scores[path]))
        return kept[0] if kept else None, kept

    def _check_same_data(self, trainer: pl.Trainer) -> None:
        """Refuse other data than those of earlier trials, as far as their lengths and stored labels tell."""
        if self._trial.joins is not None:  # then the data differ on purpose
            return
        datasets: list[Any] = [self._data.train(trainer).dataset, self._data.validation(trainer).dataset]
        self._fingerprint = fingerprint_of([[len(dataset), fingerprint_of_labels(dataset)] for dataset in datasets])
        if self._expectations.data not in ("", self._fingerprint):
            raise ValueError(
                "the training or validation data are not those of the earlier trials. For other data start another "
                "search: ParetoTuner(…, dirpath=…). A DataModule whose setup() splits at random must use a seeded "
                "generator: random_split(dataset, [0.8, 0.2], generator=torch.Generator().manual_seed(0))"
            )


def warn_of_plateaus(trainer: pl.Trainer) -> None:
    """Warn about a schedule that watches a validation metric, which a fit on all validation data does not have."""
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            rank_zero_warn(
                f"{type(config.scheduler).__name__} watches {config.monitor!r}. The last fit of "
                "include_validation=True trains on all validation data, so a validation metric is one of training data "
                "there: it keeps rising, and the learning rate falls later than in the measured fits, or never. Use a "
                "schedule by epochs or steps, which is the same in all fits"
            )


def monitor_of(callback: ParetoCallback) -> str:
    """Name under which the mean accuracy of a trial is logged."""
    return f"{callback.classwise.prefix}accuracy_macro"


def best_epochs(folder: Path, trainer: pl.Trainer, monitor: str) -> ModelCheckpoint:
    """A callback that keeps the two best epochs: at least one of them is not the last."""
    return counterpart(ModelCheckpoint, trainer)(
        folder,
        filename="{epoch}",
        monitor=monitor,
        mode="max",
        save_top_k=2,
        save_on_train_epoch_end=True,
    )


def _epoch_of(path: str) -> int:
    """Epochs trained when a checkpoint of :func:`best_epochs` was saved."""
    return int(Path(path).stem.removeprefix("epoch=")) + 1
