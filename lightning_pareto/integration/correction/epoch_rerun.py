"""An epoch of a running fit taken a second time by Lightning's own loop: the one place that knows its private names."""

import contextlib
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from lightning_pareto.integration.trainer.namespaces import is_a


class Quiet(DummyLogger):
    """Takes the place of the user's loggers, and keeps what a validation logs."""

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__()
        self._trainer = trainer
        self.validation: list[tuple[dict[str, Any], int | None]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keep the metrics of a validation."""
        if self._trainer.validating:
            self.validation.append((dict(metrics), step))


class SecondTake:
    """Takes the epoch again that a trainer has just finished, from within a callback's ``on_train_epoch_end``.

    Create it at ``on_train_epoch_start``, when the counters are those of the epoch's beginning. The epoch is run by the
    trainer's own loop, with validation at its end and every callback but those that watch a metric: checkpoints and
    early stopping see an epoch once, afterwards.

    Args:
        trainer: at the start of an epoch.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        self._beginning = self._counters()
        self._ordinary: tuple[dict[str, Any], Any] | None = None
        self._quiet: Quiet | None = None

    def run(self, loader: "DataLoader[Any]") -> bool:
        """Take the epoch again with another loader; returns whether it was run to its end."""
        fit = self._trainer.fit_loop
        epoch = fit.epoch_loop
        self._ordinary = self._counters(), epoch._results
        self._set_counters(self._beginning)
        epoch._results = type(epoch._results)(training=True)
        with self._unnoticed(), self._reading(loader):
            assert fit._data_fetcher is not None
            if fit.is_resuming:  # then Lightning takes the iterator to be new
                iter(fit._data_fetcher)
            epoch.run(fit._data_fetcher)
        self._trainer._logger_connector.epoch_end_reached()
        return bool(epoch.batch_progress.is_last_batch)

    def undo(self) -> None:
        """Put counters and logged values of the first take back."""
        if self._ordinary is not None:
            counters, self._trainer.fit_loop.epoch_loop._results = self._ordinary
            self._set_counters(counters)

    def tell_loggers(self) -> None:
        """Give the loggers what the second take's validation logged."""
        for metrics, step in self._quiet.validation if self._quiet is not None else []:
            for logger in self._trainer.loggers:
                logger.log_metrics(metrics, step=step)

    @contextlib.contextmanager
    def _unnoticed(self) -> Iterator[None]:
        """Keep loggers and the callbacks that watch a metric out."""
        trainer: Any = self._trainer
        callbacks, loggers = trainer.callbacks, trainer.loggers
        self._quiet = Quiet(trainer)
        trainer.callbacks = [each for each in callbacks if not is_a(each, Checkpoint, EarlyStopping)]
        trainer.loggers = [self._quiet, *(DummyLogger() for _ in loggers[1:])] if loggers else []
        try:
            yield
        finally:
            trainer.callbacks, trainer.loggers = callbacks, loggers

    @contextlib.contextmanager
    def _reading(self, loader: "DataLoader[Any]") -> Iterator[None]:
        """Let the trainer read from ``loader``, in an epoch that is not counted yet."""
        fit = self._trainer.fit_loop
        combined, processed = fit._combined_loader, fit.epoch_progress.current.processed  # type: ignore[attr-defined]
        assert combined is not None
        usual = combined.flattened
        combined.flattened = [loader]
        fit.epoch_progress.current.processed = processed - 1  # type: ignore[attr-defined]
        try:
            yield
        finally:
            combined.flattened = usual
            fit.epoch_progress.current.processed = processed  # type: ignore[attr-defined]

    def _progress(self) -> dict[str, Any]:
        epoch = self._trainer.fit_loop.epoch_loop
        return {
            "batches": epoch.batch_progress,
            "schedulers": epoch.scheduler_progress,
            "automatic": epoch.automatic_optimization.optim_progress,
            "manual": epoch.manual_optimization.optim_step_progress,
            "validation": epoch.val_loop.batch_progress,
        }

    def _counters(self) -> dict[str, Any]:
        stepped = self._trainer.fit_loop.epoch_loop._batches_that_stepped
        return {"stepped": stepped, **{name: part.state_dict() for name, part in self._progress().items()}}

    def _set_counters(self, counters: dict[str, Any]) -> None:
        self._trainer.fit_loop.epoch_loop._batches_that_stepped = counters["stepped"]
        for name, part in self._progress().items():
            part.load_state_dict(counters[name])


def sees_validation_first(callback: pl.Callback) -> bool:
    """Whether a callback that watches a metric acts on a validation before the end of its epoch."""
    return (
        getattr(callback, "_save_on_train_epoch_end", None) is False
        or getattr(callback, "_check_on_train_epoch_end", None) is False
    )
