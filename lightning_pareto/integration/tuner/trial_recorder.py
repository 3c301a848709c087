"""The callback that watches a trial: it counts epochs, measures the model in the end and writes the result."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from lightning_pareto.data.labels import fingerprint_of_labels
from lightning_pareto.influence.fingerprint import fingerprint_of
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.integration.analysis.checkpoints import weights_of
from lightning_pareto.integration.analysis.checks import check_data, check_strategy
from lightning_pareto.integration.analysis.previews import save_previews
from lightning_pareto.integration.analysis.run import influence_of
from lightning_pareto.integration.trainer.data_source import ParetoData
from lightning_pareto.integration.trainer.namespaces import fitting
from lightning_pareto.integration.trainer.processes import shard_of
from lightning_pareto.integration.tuner.starting_checkpoint import epochs_seen
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.integration.validation.predict import outcome_of
from lightning_pareto.pareto.demand import Targets, chosen_categories
from lightning_pareto.storage.run_folders import INFLUENCE_FILE

MONITOR = "val_accuracy_macro"


class TrialRecorder(pl.Callback):
    """Writes the result of the fit that it watches.

    Args:
        name: of the trial.
        key: what the result is found again by.
        folder: where it is written.
        data: how batches are read.
        epochs: to train from a checkpoint; None for a whole fit of the trainer's own number.
        best: keeps the checkpoints of a whole fit.
        end: where to keep that of the end.
        stop_after: end the fit after so many epochs of its schedule; 0 for all of them.
        analysis: options of the influence to estimate at the start.
        max_memory: of the analysis, in GiB.
        seen: what the data of the trials before were told by; empty for no trial, or none on the same data.
        joins: whether validation samples are trained on, so that the data are others on purpose.
        targets: categories that there have to be.
        warns_of_plateaus: whether a later fit of the search will train on all validation data.

    Attributes:
        influence: what was estimated, if the disk did not take it.
        result: of the trial, if the disk did not take it.
    """

    def __init__(
        self,
        name: str,
        key: str,
        folder: Path,
        data: ParetoData,
        epochs: int | None = None,
        best: ModelCheckpoint | None = None,
        end: Path | None = None,
        stop_after: int = 0,
        analysis: InfluenceOptions | None = None,
        max_memory: float | None = None,
        seen: str = "",
        joins: bool = False,
        targets: Targets = None,
        warns_of_plateaus: bool = False,
    ) -> None:
        self._name, self._key, self._folder = name, key, folder
        self._data = data
        self._epochs = epochs
        self._best = best
        self._end = end
        self._stop_after = stop_after
        self._analysis = analysis
        self._max_memory = max_memory
        self._seen = seen
        self._joins = joins
        self._found = ""
        self._targets = targets
        self._warns_of_plateaus = warns_of_plateaus
        self.influence: InfluenceMatrix | None = None
        self.result: TrialResult | None = None
        self._process = os.getpid()
        self._begun = 0
        self._history: list[float] = []
        self._categories: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a strategy under which influence cannot be had."""
        check_strategy(trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """End the fit so many epochs after what the checkpoint has seen, which its schedules need not know."""
        if self._epochs is not None:
            self._begun = epochs_seen(checkpoint)
            self._stop_after = self._begun + self._epochs
            trainer.fit_loop.max_epochs = max(trainer.max_epochs or 0, self._begun + max(self._epochs, 1))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the data, estimate influence if asked to, and stop again if there is nothing to train."""
        self._categories = check_data(trainer, pl_module, self._data, None)
        if self._categories is not None:
            chosen_categories(self._categories, self._targets)
        self._check_same_data(trainer)
        if self._warns_of_plateaus:
            warn_of_plateaus(trainer)
        if self._analysis is not None:
            influence = influence_of(
                trainer,
                pl_module,
                self._data,
                self._categories,
                self._analysis,
                self._max_memory,
                "last",
                self._folder,
            )
            if trainer.is_global_zero:
                path = self._folder / INFLUENCE_FILE
                if not self._written(trainer, "influence", lambda: influence.save(path)):
                    self.influence = influence
                save_previews(trainer, self._data, influence, self._folder)
        if self._epochs == 0:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop where the fit is to end."""
        if self._stop_after and trainer.current_epoch + 1 >= self._stop_after:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the mean accuracy."""
        if not trainer.sanity_checking and MONITOR in trainer.callback_metrics:
            self._history.append(float(trainer.callback_metrics[MONITOR]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the model at its best epoch and write the result; every process leaves when it is there."""
        trained = trainer.current_epoch - self._begun if self._epochs != 0 else 0
        best, kept = self._kept(trainer)
        with weights_of(pl_module, best, shard_of(trainer, pl_module)) as used:
            if used != best:
                raise RuntimeError(f"the checkpoint {best} cannot be read back, for the reason in the warning above")
            outcome = outcome_of(trainer, pl_module, self._data)
        if self._end is not None:
            trainer.save_checkpoint(self._end)
        result = TrialResult(
            name=self._name,
            outcome=outcome,
            epochs=trained,
            best_epoch=_epoch_of(best) if best else self._begun + trained,
            history=np.array(self._history),
            checkpoint=Path(best) if best else self._end,
            next_checkpoint=next((Path(path) for path in kept if _epoch_of(path) < trained), None),
            data=self._found,
        )
        if trainer.is_global_zero and (
            self.influence is not None  # a result on disk says that all of the trial is there
            or not self._written(trainer, "result", lambda: result.save(self._folder, self._key))
        ):
            self.result = result
        trainer.strategy.barrier()

    def _written(self, trainer: pl.Trainer, what: str, write: Callable[[], Any]) -> bool:
        """Write something; where that fails a single process can go on with what it has in memory, and returns False.

        Raises:
            OSError: where other processes read it from the disk, if only the one that has launched this one.
        """
        try:
            write()
        except OSError as error:
            if trainer.world_size > 1 or os.getpid() != self._process:
                raise
            rank_zero_warn(
                f"the {what} of the trial {self._name!r} could not be written and is in memory only ({error}): the "
                "search goes on, and would make this trial anew after an interruption. Make room there"
            )
            return False
        return True

    def _kept(self, trainer: pl.Trainer) -> tuple[str | None, list[str]]:
        """Path of the best checkpoint and of all, the best first, as rank zero has them."""
        if self._best is None:
            return None, []
        scores = {path: float(score) for path, score in self._best.best_k_models.items()}
        kept: list[str] = trainer.strategy.broadcast(sorted(scores, key=lambda path: -scores[path]))
        return kept[0] if kept else None, kept

    def _check_same_data(self, trainer: pl.Trainer) -> None:
        """Refuse other data than those of the trials before, as far as their lengths and labels at hand tell."""
        if self._joins:
            return
        datasets: list[Any] = [self._data.train(trainer).dataset, self._data.validation(trainer).dataset]
        self._found = fingerprint_of([[len(dataset), fingerprint_of_labels(dataset)] for dataset in datasets])
        if self._seen not in ("", self._found):
            raise ValueError(
                "the training or validation data are not those of the trials before. With other data begin another "
                "search: ParetoTuner(…, dirpath=…). A DataModule whose setup() splits at random must do so with a "
                "seeded generator: random_split(dataset, [0.8, 0.2], generator=torch.Generator().manual_seed(0))"
            )


def warn_of_plateaus(trainer: pl.Trainer) -> None:
    """Say what a schedule that watches a metric will see in a fit on all validation data."""
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            rank_zero_warn(
                f"{type(config.scheduler).__name__} watches {config.monitor!r}. In the last fit of "
                "include_validation=True, which trains on all validation data, a metric of theirs is one of training "
                "data: it goes on rising, and the learning rate is lowered later than in the fits that were measured, "
                "or never. A schedule by epochs or steps is the same in all fits"
            )


def best_epochs(folder: Path, trainer: pl.Trainer) -> ModelCheckpoint:
    """Keeps the two best epochs: of two, one at least is not the last."""
    return fitting(ModelCheckpoint, trainer)(
        folder,
        filename="{epoch}",
        monitor=MONITOR,
        mode="max",
        save_top_k=2,
        save_on_train_epoch_end=True,
    )


def _epoch_of(path: str) -> int:
    """Epochs trained when a checkpoint of :func:`best_epochs` was saved."""
    return int(Path(path).stem.removeprefix("epoch=")) + 1
