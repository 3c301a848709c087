"""Trials of a search: fits with new Trainers, each leaving its result and nothing else in a folder of its own."""

import contextlib
import copy
import errno
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_pareto.influence.fingerprint import fingerprint_of
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.integration.analysis.resumption import STAGES
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.datamodule import ReweightedDataModule
from lightning_pareto.integration.tuner.isolation import quiet, seeded
from lightning_pareto.integration.tuner.messages import TrialLog
from lightning_pareto.integration.tuner.trainer_factory import TrainerFactory, prepare
from lightning_pareto.integration.tuner.trial_recorder import TrialRecorder, best_epochs
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.integration.tuner.validation_data import joined
from lightning_pareto.pareto.demand import Targets
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.storage.artifacts import remove_temporary_files, write_atomically
from lightning_pareto.storage.run_folders import INFLUENCE_FILE

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
        joins: which validation samples are trained on as well, (n,) bool; the others alone measure the fit. None for
            none of them.
        stops_after: end a whole fit after so many epochs of its schedule; 0 for all of them.
    """

    name: str
    start: Start
    epochs: int | None
    checkpoint: Path | None = None
    weights: SampleWeights | None = None
    keeps: bool = False
    analyse: MeasureName | None = None
    joins: npt.NDArray[np.bool_] | None = None
    stops_after: int = 0

    @property
    def unmeasured(self) -> bool:
        """Whether it trains on all samples that could measure it."""
        return self.joins is not None and bool(self.joins.all())

    def key(self, identity: str) -> str:
        """What tells this trial from others."""
        weights = None if self.weights is None else fingerprint_of(self.weights.values)
        start = None if self.checkpoint is None else (str(self.checkpoint), self.checkpoint.stat().st_size)
        joins = None if self.joins is None else fingerprint_of(self.joins)
        how = [self.start, self.epochs, start, weights, self.keeps, self.analyse, joins, self.stops_after]
        return json.dumps([identity, *how])


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
        include_validation: whether the last trial will train on all validation data.
        fingerprint: tells this search from others that only differ in code or data.
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
        include_validation: bool = False,
        fingerprint: str = "",
    ) -> None:
        self._fingerprint = fingerprint
        self._targets = targets
        self._include_validation = include_validation
        self.factory = TrainerFactory(trainer_factory)
        self._module = module
        self._datamodule = datamodule
        self._callback = callback
        self.folder = folder
        self.seed = seed
        self._data = ""  # what tells those of the finished trials from others
        self.finished: dict[str, TrialResult] = {}
        self._influences: dict[str, InfluenceMatrix] = {}  # that the disk did not take
        self.log: TrialLog | None = None
        self._identity = fingerprint_of([self._described(), seed])
        self.goes_on = self._restore_initial()

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
                recorder = self._fit(trial, folder, key)
                result = recorder.result or TrialResult.load(folder, key)
                if recorder.influence is not None:
                    self._influences[key] = recorder.influence
            if result is None:
                raise RuntimeError(f"the trial {trial.name!r} ended early: call fit again, and it goes on from here")
            self.finished[key] = result
            self._data = self._data or result.data
            if self.log is not None:
                self.log.tell(trial.name, None if trial.unmeasured else result.outcome, self.epochs_spent)
        return self.finished[key]

    def influence(self, trial: Trial) -> InfluenceMatrix:
        """What a finished trial with ``analyse`` has found."""
        in_memory = self._influences.get(trial.key(self._identity))
        return in_memory or InfluenceMatrix.load(self._folder_of(trial) / INFLUENCE_FILE)

    def _folder_of(self, trial: Trial) -> Path:
        kind = trial.name.split(",")[0].replace(" ", "_").replace("'", "")
        return self.folder / f"{kind}_{fingerprint_of(trial.key(self._identity))}"

    def _fit(self, trial: Trial, folder: Path, key: str) -> TrialRecorder:
        with self._disk_named(trial):
            _empty(folder)
        module = self._copy()
        if trial.start == "weights":
            assert trial.checkpoint is not None
            module.load_state_dict(torch.load(trial.checkpoint, map_location="cpu", weights_only=True)["state_dict"])
        data = self._datamodule
        if trial.joins is not None:
            data = joined(data, self._callback.data.val_dataloader_idx, trial.joins)
        if trial.weights is not None:
            data = ReweightedDataModule(data, trial.weights, seed=self.seed)
        with quiet(), seeded(self.seed):
            trainer, recorder = self._trainer(trial, module, folder, key)
            with self._disk_named(trial):
                trainer.fit(
                    module, datamodule=data, ckpt_path=trial.checkpoint if trial.start == "checkpoint" else None
                )
        return recorder

    def _trainer(
        self, trial: Trial, module: pl.LightningModule, folder: Path, key: str
    ) -> tuple[pl.Trainer, TrialRecorder]:
        """A new Trainer, and what measures the trial."""
        trainer, whole = self.factory(), trial.start != "checkpoint" and not trial.stops_after
        best = best_epochs(folder, trainer) if trial.keeps and whole else None
        options, data, joins = self._callback.options, self._callback.data, trial.joins is not None
        if joins:
            data = replace(data, train_dataloader=None)  # it has fewer samples, and only influence reads it
        recorder = TrialRecorder(
            trial.name,
            key,
            folder,
            data,
            epochs=trial.epochs if trial.start == "checkpoint" else None,
            best=best,
            end=folder / "end.ckpt" if trial.keeps and not whole else None,
            stop_after=trial.stops_after,
            analysis=None if trial.analyse is None else replace(options, measure=trial.analyse),
            max_memory=self._callback.max_memory,
            seen=self._data,
            joins=joins,
            targets=None if joins else self._targets,  # looked for in the first fit, whose datasets have all names
            warns_of_plateaus=self._include_validation and not self._data,
        )
        classwise = ParetoCallback(
            task=data.task,
            class_names=data.class_names,
            val_dataloader_idx=data.val_dataloader_idx,
            analyse=False,
        )
        prepare(trainer, module, folder, whole, [classwise, recorder, *([best] if best else [])])
        if trial.epochs is not None and whole:
            trainer.fit_loop.max_epochs = trial.epochs
        return trainer, recorder

    @contextlib.contextmanager
    def _disk_named(self, trial: Trial) -> Iterator[None]:
        """Say what a disk that is full costs, and how to go on; the error may come from a logger or a checkpoint."""
        try:
            yield
        except OSError as error:
            if error.errno not in _DISK:
                raise
            path = error.filename2 or error.filename
            where = f" ({path})" if path else ""
            raise OSError(
                error.errno,
                f"{error.strerror}{where}, in the trial {trial.name!r}. Those that are finished ({len(self.finished)}) "
                f"are kept in {self.folder}: make room, call fit again, and it goes on there",
            ) from error

    def _copy(self) -> pl.LightningModule:
        try:
            return copy.deepcopy(self._module)
        except Exception as error:  # anything that an attribute may raise
            raise TypeError(
                f"every trial takes a copy of {type(self._module).__name__}, and copy.deepcopy failed: {error}. Make "
                "what cannot be copied in configure_model() or setup(), or give the class a __deepcopy__"
            ) from error

    def _described(self) -> str:
        """What makes it another search, the same on every process: the model, its options and those of the Trainer."""
        values = self._module.state_dict().values()
        if any(torch.nn.parameter.is_lazy(value) for value in values):
            raise ValueError("the module has parameters without a shape: run one batch through it first")
        trainer, data = self.factory(), self._callback.data
        limits = (trainer.max_epochs, trainer.accumulate_grad_batches, trainer.limit_train_batches, trainer.precision)
        shapes = [tuple(value.shape) for value in values if isinstance(value, torch.Tensor)]
        names = [type(self._module).__qualname__, type(self._datamodule).__qualname__, str(self._module)]
        hparams = [_as_text(holder.hparams) for holder in (self._module, self._datamodule)]
        read = (data.class_names, data.val_dataloader_idx, self._callback.budget, asdict(self._callback.options))
        return repr((names, shapes, hparams, limits, read, self._fingerprint))

    def _restore_initial(self) -> bool:
        """Begin where an interrupted search began, as a script that is started again makes another random start."""
        path = self.folder / INITIAL_FILE
        if path.exists():
            self._module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            return True
        _write(self._module.state_dict(), path)
        return False


def _as_text(hparams: Any) -> str:
    """Hyper-parameters as a text that is the same in every process; only the type of unusual values."""
    return json.dumps(dict(hparams), default=lambda value: type(value).__qualname__, skipkeys=True, sort_keys=True)


INITIAL_FILE = "initial.pt"

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


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
    payload = io.BytesIO()
    torch.save(state, payload)
    write_atomically(path, payload.getvalue())
    remove_temporary_files(path.parent, path.name)
