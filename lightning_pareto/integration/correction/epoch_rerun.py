"""Reruns an epoch of a running fit with other training data, unnoticed by loggers and checkpoints."""

import contextlib
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from lightning_pareto.integration.correction.training_state import TrainingState
from lightning_pareto.integration.trainer.internals import loop_state, rerun_epoch, restore_loop_state
from lightning_pareto.integration.trainer.namespaces import is_a


class ValidationRecorder(DummyLogger):
    """Replaces the user's loggers and keeps what a validation logs."""

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__()
        self._trainer = trainer
        self.validation: list[tuple[dict[str, Any], int | None]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keep the metrics of a validation."""
        if self._trainer.validating:
            self.validation.append((dict(metrics), step))


class EpochRerun:
    """Reruns the epoch that a trainer has just finished, from within a callback's ``on_train_epoch_end``.

    Create it at ``on_train_epoch_start``, when the counters are those of the epoch's beginning. The trainer's own loop
    runs the epoch, with validation at its end and with every callback except those that watch a metric. Checkpoints and
    early stopping see an epoch once, afterwards.

    Args:
        trainer: at the start of an epoch.
        besides: the callback that reruns it, whose state stays as it is.
    """

    def __init__(self, trainer: pl.Trainer, besides: pl.Callback) -> None:
        self._trainer = trainer
        self._besides = besides
        self._beginning = loop_state(trainer)
        self._start: TrainingState | None = None
        self._end: TrainingState | None = None  # of the ordinary epoch
        self._counters: dict[str, Any] | None = None  # at that end, once they are no longer the trainer's
        self._recorder: ValidationRecorder | None = None

    @property
    def can_run(self) -> bool:
        """Whether the state at the start of the epoch is known: not if the epoch was resumed in its middle."""
        return self._start is not None

    def begin(self) -> None:
        """Copy the state before the first batch, after all hooks of the epoch's start."""
        self._start = self._start or TrainingState(self._trainer, self._besides)

    def go_back(self) -> None:
        """Keep the state at the end of the ordinary epoch, and restore that at its start."""
        assert self._start is not None
        self._end = TrainingState(self._trainer, self._besides)
        self._start.restore(self._trainer)

    def run(self, loader: "DataLoader[Any]") -> bool:
        """Rerun the epoch with another loader. Returns whether it ran to its end."""
        self._counters = loop_state(self._trainer)
        restore_loop_state(self._trainer, self._beginning)
        with self._unnoticed():
            return rerun_epoch(self._trainer, loader)

    def undo(self) -> None:
        """Restore the end of the ordinary epoch."""
        if self._end is not None:
            self._end.restore(self._trainer)
        if self._counters is not None:
            restore_loop_state(self._trainer, self._counters)

    def replay_validation(self) -> None:
        """Log what the rerun's validation has logged."""
        for metrics, step in self._recorder.validation if self._recorder is not None else []:
            for logger in self._trainer.loggers:
                logger.log_metrics(metrics, step=step)

    @contextlib.contextmanager
    def _unnoticed(self) -> Iterator[None]:
        """Leave out the loggers and the callbacks that watch a metric."""
        trainer: Any = self._trainer
        callbacks, loggers = trainer.callbacks, trainer.loggers
        self._recorder = ValidationRecorder(trainer)
        trainer.callbacks = [each for each in callbacks if not is_a(each, Checkpoint, EarlyStopping)]
        trainer.loggers = [self._recorder, *(DummyLogger() for _ in loggers[1:])] if loggers else []
        try:
            yield
        finally:
            trainer.callbacks, trainer.loggers = callbacks, loggers
