"""The user's Trainers, checked and made ready for a trial."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelSummary, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.correction import CourseCorrection
from lightning_pareto.integration.trainer.namespaces import fitting, is_a

Filter = tuple[type[pl.Callback], ...]

UNWANTED: Filter = (Checkpoint, ModelSummary, ParetoCallback, CourseCorrection)
"""Callbacks that take no part in any trial."""


class TrainerFactory:
    """Makes Trainers that share nothing and end after a number of epochs.

    Args:
        make: the user's function.
    """

    def __init__(self, make: Callable[[], pl.Trainer]) -> None:
        self._make = make
        self._last: pl.Trainer | None = None

    def __call__(self) -> pl.Trainer:
        """A new Trainer, checked.

        Raises:
            TypeError: if it is not a new ``lightning.pytorch.Trainer``, or shares a callback that remembers something.
            ValueError: if it does not end after a number of epochs.
        """
        trainer = self._make()
        if not is_a(trainer, pl.Trainer):
            raise TypeError(
                f"trainer_factory() returned {type(trainer).__name__}: it has to make a lightning.pytorch Trainer, for "
                "instance trainer_factory=lambda: pl.Trainer(max_epochs=10)"
            )
        if trainer is self._last:
            raise TypeError(
                "trainer_factory() returned the same Trainer twice: every trial takes a new one, "
                "trainer_factory=lambda: pl.Trainer(max_epochs=10)"
            )
        self._refuse_shared(trainer)
        _refuse_other_ends(trainer)
        self._last = trainer
        return trainer

    def _refuse_shared(self, trainer: pl.Trainer) -> None:
        before = [] if self._last is None else callbacks_of(self._last)
        for callback in _without(UNWANTED, callbacks_of(trainer)):
            remembers = type(callback).state_dict is not fitting(pl.Callback, callback).state_dict
            if remembers and any(callback is other for other in before):
                name = type(callback).__name__
                raise TypeError(
                    f"trainer_factory() gives one {name} to all its Trainers, which would carry what it remembers from "
                    f"trial to trial: make it in the function, lambda: pl.Trainer(callbacks=[{name}(…)], …)"
                )


def _refuse_other_ends(trainer: pl.Trainer) -> None:
    if getattr(trainer, "fast_dev_run", False) or trainer.barebones:
        raise ValueError("a search takes whole fits: not fast_dev_run=True or barebones=True")
    if not trainer.max_epochs or trainer.max_epochs < 1:
        raise ValueError(f"the Trainer needs a number of epochs, found max_epochs={trainer.max_epochs}")
    if trainer.max_steps != -1 or any(is_a(callback, Timer) for callback in callbacks_of(trainer)):
        raise ValueError("a search counts epochs: bound the Trainer by max_epochs, not by max_steps or max_time")
    if trainer.check_val_every_n_epoch is None or trainer.check_val_every_n_epoch > trainer.max_epochs:
        raise ValueError("a search needs the validation of an epoch: set check_val_every_n_epoch=1")


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """The Trainer's callbacks."""
    found: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return found


def prepare(
    trainer: pl.Trainer, module: pl.LightningModule, folder: Path, whole: bool, added: list[pl.Callback]
) -> None:
    """Let a Trainer log in ``folder`` only, with these callbacks added and without those that have no part in trials.

    Args:
        trainer: a new one.
        module: what it will fit; callbacks that it configures are sifted in the same way.
        folder: of the trial.
        whole: whether it makes a whole fit, which may stop early; others end where they are told to.
        added: callbacks of the search.
    """
    unwanted = UNWANTED if whole else (*UNWANTED, EarlyStopping)
    trainer.callbacks = [*_without(unwanted, callbacks_of(trainer)), *added]  # type: ignore[attr-defined]
    configured: Any = module.configure_callbacks()
    own = [configured] if is_a(configured, pl.Callback) else list(configured)
    vars(module)["configure_callbacks"] = functools.partial(_without, unwanted, own)
    board = any(is_a(logger, TensorBoardLogger) for logger in trainer.loggers)
    kind: Any = fitting(TensorBoardLogger if board else CSVLogger, trainer)
    trainer.loggers = [kind(folder, name="", version="")]
    trainer.num_sanity_val_steps = 0
    if not whole:
        trainer.fit_loop.min_epochs = None
        loop: Any = trainer.fit_loop.epoch_loop
        loop.min_steps = None


def _without(unwanted: Filter, callbacks: list[pl.Callback]) -> list[pl.Callback]:
    return [callback for callback in callbacks if not is_a(callback, *unwanted)]
