"""Makes the user's Trainers, checks them and prepares them for a trial."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelSummary, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.correction import CourseCorrection
from lightning_pareto.integration.trainer.namespaces import counterpart, is_a

Filter = tuple[type[pl.Callback], ...]

UNWANTED: Filter = (Checkpoint, ModelSummary, ParetoCallback, CourseCorrection)
"""Callbacks that take no part in any trial."""


class TrainerFactory:
    """Makes Trainers that share nothing and end after a fixed number of epochs.

    Args:
        make: the user's function that returns a new Trainer.
    """

    def __init__(self, make: Callable[[], pl.Trainer]) -> None:
        self._make = make
        self._last: pl.Trainer | None = None

    def __call__(self) -> pl.Trainer:
        """A new Trainer, checked.

        Raises:
            TypeError: if it is not a new ``lightning.pytorch.Trainer``, or shares a callback that has a state.
            ValueError: if it does not end after a fixed number of epochs.
        """
        trainer = self._make()
        if not is_a(trainer, pl.Trainer):
            raise TypeError(
                f"trainer_factory() must return a lightning.pytorch Trainer, found {type(trainer).__name__}. For "
                "instance: trainer_factory=lambda: pl.Trainer(max_epochs=10)"
            )
        if trainer is self._last:
            raise TypeError(
                "trainer_factory() returned the same Trainer twice, but every trial needs a new one: "
                "trainer_factory=lambda: pl.Trainer(max_epochs=10)"
            )
        self._refuse_shared(trainer)
        _refuse_other_ends(trainer)
        self._last = trainer
        return trainer

    def _refuse_shared(self, trainer: pl.Trainer) -> None:
        before = [] if self._last is None else callbacks_of(self._last)
        for callback in _without(UNWANTED, callbacks_of(trainer)):
            remembers = type(callback).state_dict is not counterpart(pl.Callback, callback).state_dict
            if remembers and any(callback is other for other in before):
                name = type(callback).__name__
                raise TypeError(
                    f"trainer_factory() gives one {name} to all its Trainers, which would carry its state from trial "
                    f"to trial. Create it in the function: lambda: pl.Trainer(callbacks=[{name}(…)], …)"
                )


def _refuse_other_ends(trainer: pl.Trainer) -> None:
    if getattr(trainer, "fast_dev_run", False) or trainer.barebones:
        raise ValueError("a search needs complete fits: remove fast_dev_run=True and barebones=True")
    if not trainer.max_epochs or trainer.max_epochs < 1:
        raise ValueError(f"the Trainer needs a fixed number of epochs, found max_epochs={trainer.max_epochs}")
    if trainer.max_steps != -1 or any(is_a(callback, Timer) for callback in callbacks_of(trainer)):
        raise ValueError("a search counts epochs: limit the Trainer by max_epochs, not by max_steps or max_time")
    if trainer.check_val_every_n_epoch is None or trainer.check_val_every_n_epoch > trainer.max_epochs:
        raise ValueError("a search needs a validation after an epoch: set check_val_every_n_epoch=1")


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """The Trainer's callbacks."""
    found: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return found


def prepare(
    trainer: pl.Trainer, module: pl.LightningModule, folder: Path, added: list[pl.Callback], *, complete: bool
) -> None:
    """Make a Trainer log only in ``folder``, add callbacks, and remove those that take no part in trials.

    Args:
        trainer: a new Trainer.
        module: the module to be fitted. Callbacks that it configures are filtered in the same way.
        folder: folder of the trial.
        added: callbacks of the search.
        complete: whether it makes a complete fit, which may stop early. Other fits end where the trial ends.
    """
    unwanted = UNWANTED if complete else (*UNWANTED, EarlyStopping)
    trainer.callbacks = [*_without(unwanted, callbacks_of(trainer)), *added]  # type: ignore[attr-defined]
    configured: Any = module.configure_callbacks()
    own = [configured] if is_a(configured, pl.Callback) else list(configured)
    vars(module)["configure_callbacks"] = functools.partial(_without, unwanted, own)
    board = any(is_a(logger, TensorBoardLogger) for logger in trainer.loggers)
    kind: Any = counterpart(TensorBoardLogger if board else CSVLogger, trainer)
    trainer.loggers = [kind(folder, name="", version="")]
    trainer.num_sanity_val_steps = 0
    if not complete:
        trainer.fit_loop.min_epochs = None
        loop: Any = trainer.fit_loop.epoch_loop
        loop.min_steps = None


def _without(unwanted: Filter, callbacks: list[pl.Callback]) -> list[pl.Callback]:
    return [callback for callback in callbacks if not is_a(callback, *unwanted)]
