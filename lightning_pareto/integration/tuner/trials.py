"""Trials of a search: fits with new Trainers, each leaving its result and nothing else in a folder of its own."""

import contextlib
import copy
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelSummary
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_pareto.influence.fingerprint import fingerprint_of
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.datamodule import ReweightedDataModule
from lightning_pareto.integration.resumption import STAGES
from lightning_pareto.integration.tuner.joined import joined
from lightning_pareto.integration.tuner.log import TrialLog
from lightning_pareto.integration.tuner.recorder import INFLUENCE_FILE, TrialRecorder, best_epochs
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.pareto.demand import Targets
from lightning_pareto.reweighting.weights import SampleWeights

Start = Literal["initial", "weights", "checkpoint"]
"""Where a trial starts: at the module as it was given, at the weights of a checkpoint, or at all that it holds."""


@dataclass(frozen=True)
class Trial:
    """A fit to make.

    Attributes:
        name: what to call it.
        start: where it starts; from ``"checkpoint"`` optimizers, schedulers and scalers go on as they were.
        epochs: to train; None for the trainer's own number. 0 only measures the model at the start.
        checkpoint: the one to start from.
        weights: of the training samples; None for an ordinary fit.
        keeps: keep checkpoints: of the two best epochs by validation, or of the end of a trial from a checkpoint.
        analyse: estimate influence with this measure at the start.
        joins: train on the validation samples as well, at weight 1, for so many epochs of the schedule; 0 does not.
    """

    name: str
    start: Start
    epochs: int | None
    checkpoint: Path | None = None
    weights: SampleWeights | None = None
    keeps: bool = False
    analyse: MeasureName | None = None
    joins: int = 0

    def key(self, identity: str) -> str:
        """What tells this trial from others."""
        weights = None if self.weights is None else fingerprint_of(self.weights.values)
        start = None if self.checkpoint is None else str(self.checkpoint)
        return json.dumps([identity, self.start, self.epochs, start, weights, self.keeps, self.analyse, self.joins])


class Trials:
    """Makes trials, and remembers those that are finished, also after the process was killed.

    Args:
        trainer_factory: makes a new Trainer, as for an ordinary fit.
        module: as every trial from the ``"initial"`` start begins; it is copied, never trained.
        datamodule: the data of an ordinary fit.
        callback: how batches are read, and the options of the analysis.
        folder: where results go; all processes must see it.
        seed: of every trial, so that they differ in nothing but what is tried.
        targets: categories that there have to be, checked before the first trial trains.
    """

    def __init__(
        self,
        trainer_factory: Callable[[], pl.Trainer],
        module: pl.LightningModule,
        datamodule: pl.LightningDataModule,
        callback: ParetoCallback,
        folder: Path,
        seed: int,
        targets: Targets = None,
    ) -> None:
        self._targets = targets
        self._factory = trainer_factory
        self._module = module
        self._datamodule = datamodule
        self._callback = callback
        self.folder = folder
        self.seed = seed
        self.labels: np.ndarray | None = None
        self.finished: dict[str, TrialResult] = {}
        self.log: TrialLog | None = None
        self._trainers: list[pl.Trainer] = []
        shapes = [(name, tuple(value.shape)) for name, value in module.state_dict().items() if hasattr(value, "shape")]
        self._identity = fingerprint_of([shapes, dict(module.hparams), dict(datamodule.hparams), seed])
        self._restore_initial()

    @property
    def epochs_spent(self) -> int:
        """Epochs trained by all trials so far, whether in this process or before."""
        return sum(result.epochs for result in self.finished.values())

    def run(self, trial: Trial) -> TrialResult:
        """Make a trial, or read its result if it is finished.

        Raises:
            RuntimeError: if the fit was interrupted.
            Exception: whatever the fit raises.
        """
        key = trial.key(self._identity)
        if key not in self.finished:
            folder = self._folder_of(trial)
            result = TrialResult.load(folder, key)
            if result is None:
                self._fit(trial, folder, key)
                result = TrialResult.load(folder, key)
            if result is None:
                raise RuntimeError(f"the trial {trial.name!r} ended early: call fit again, and it goes on from here")
            self.finished[key] = result
            if self.log is not None:
                self.log.tell(trial.name, result, self.epochs_spent)
        return self.finished[key]

    def influence(self, trial: Trial) -> InfluenceMatrix:
        """What a finished trial with ``analyse`` has found."""
        return InfluenceMatrix.load(self._folder_of(trial) / INFLUENCE_FILE)

    def _folder_of(self, trial: Trial) -> Path:
        kind = trial.name.split(",")[0].replace(" ", "_").replace("'", "")
        return self.folder / f"{kind}_{fingerprint_of(trial.key(self._identity))}"

    def _fit(self, trial: Trial, folder: Path, key: str) -> None:
        _empty(folder)
        module = copy.deepcopy(self._module)
        if trial.start == "weights":
            assert trial.checkpoint is not None
            module.load_state_dict(torch.load(trial.checkpoint, map_location="cpu", weights_only=True)["state_dict"])
        data = joined(self._datamodule, self._callback.data.val_dataloader_idx) if trial.joins else self._datamodule
        if trial.weights is not None:
            data = ReweightedDataModule(data, trial.weights, seed=self.seed)
        with _quiet(), _seeded(self.seed):
            trainer = self._trainer(trial, folder, key)
            trainer.fit(module, datamodule=data, ckpt_path=trial.checkpoint if trial.start == "checkpoint" else None)

    def _trainer(self, trial: Trial, folder: Path, key: str) -> pl.Trainer:
        """A new Trainer of the user's that logs and keeps checkpoints in the trial's folder only."""
        trainer = self.new_trainer()
        step, to_the_end = trial.start == "checkpoint", trial.start == "checkpoint" or trial.joins > 0
        best = best_epochs(folder) if trial.keeps and not to_the_end else None
        options, data = self._callback.options, self._callback.data
        recorder = TrialRecorder(
            trial.name,
            key,
            folder,
            data,
            epochs=trial.epochs if step else None,
            best=best,
            end=folder / "end.ckpt" if trial.keeps and to_the_end else None,
            stop_after=trial.joins,
            analysis=None if trial.analyse is None else replace(options, measure=trial.analyse),
            max_memory=self._callback.max_memory,
            labels=None if trial.weights is None or trial.joins else self.labels,
            targets=self._targets,
        )
        classwise = ParetoCallback(
            task=data.task,
            class_names=data.class_names,
            val_dataloader_idx=data.val_dataloader_idx,
            analyse=False,
        )
        unwanted = (Checkpoint, ModelSummary, ParetoCallback, *((EarlyStopping,) if to_the_end else ()))
        kept = [callback for callback in trainer.callbacks if not isinstance(callback, unwanted)]  # type: ignore[attr-defined]
        trainer.callbacks = [*kept, classwise, recorder, *([best] if best else [])]  # type: ignore[attr-defined]
        trainer.loggers = [CSVLogger(folder, name="", version="")]
        trainer.num_sanity_val_steps = 0
        if trial.epochs is not None and not step:
            trainer.fit_loop.max_epochs = trial.epochs
        return trainer

    def new_trainer(self) -> pl.Trainer:
        """What the factory makes, checked.

        Raises:
            TypeError: if it is not a new ``lightning.pytorch.Trainer``.
            ValueError: if it has no number of epochs.
        """
        trainer = self._factory()
        if not isinstance(trainer, pl.Trainer):
            raise TypeError(
                f"trainer_factory() returned {type(trainer).__name__}: it has to make a lightning.pytorch Trainer, for "
                "instance trainer_factory=lambda: pl.Trainer(max_epochs=10)"
            )
        if any(trainer is other for other in self._trainers):
            raise TypeError(
                "trainer_factory() returned the same Trainer twice: every trial takes a new one, "
                "trainer_factory=lambda: pl.Trainer(max_epochs=10)"
            )
        self._trainers = [*self._trainers[-1:], trainer]
        if not trainer.max_epochs or trainer.max_epochs < 1:
            raise ValueError(f"the Trainer needs a number of epochs, found max_epochs={trainer.max_epochs}")
        return trainer

    def _restore_initial(self) -> None:
        """Begin where an interrupted search began, as a script that is started again makes another random start."""
        path = self.folder / INITIAL_FILE
        if path.exists():
            self._module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        else:
            _write(self._module.state_dict(), path)


INITIAL_FILE = "initial.pt"


@rank_zero_only
def _empty(folder: Path) -> None:
    """Remove what an interrupted trial left but finished stages of its influence."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and path.name != STAGES:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


@rank_zero_only
def _write(state: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Everything random in a trial comes from the seed, and nothing of it is left behind."""
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    with isolate_rng():
        pl.seed_everything(seed, workers=True, verbose=False)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what Lightning says of itself at every fit, and warnings that are meant for other uses."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


EXPECTED = (
    r".*callbacks used to create the checkpoint need to be provided",
    r"Checkpoint directory .* exists and is not empty",
    r"Experiment logs directory .* exists and is not empty",
    r".*smaller than the logging interval",
    r"The `?fit`? loop was restarted|.*resuming from a checkpoint that ended before the epoch ended",
)
"""Warnings of Lightning that every trial would repeat: each fit starts from a checkpoint of another one on purpose."""
