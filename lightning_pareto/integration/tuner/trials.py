"""Runs the trials of a search: fits with new Trainers, each leaving its result in a folder of its own."""

import contextlib
import errno
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_pareto.influence.fingerprint import fingerprint_of
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.analysis.resumption import STAGES
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.datamodule import ReweightedDataModule
from lightning_pareto.integration.tuner.isolation import quiet, seeded
from lightning_pareto.integration.tuner.messages import TrialLog
from lightning_pareto.integration.tuner.project import Project
from lightning_pareto.integration.tuner.trainer_factory import TrainerFactory, prepare
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trial_recorder import Expectations, TrialRecorder, best_epochs, monitor_of
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.integration.tuner.validation_data import joined
from lightning_pareto.storage.artifacts import remove_temporary_files, write_atomically
from lightning_pareto.storage.run_folders import INFLUENCE_FILE

INITIAL_FILE = "initial.pt"

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Trials:
    """Runs trials and remembers those that are finished, even if the process was killed.

    Args:
        project: what they fit.
        folder: where results go. All processes must see it.

    Attributes:
        finished: results by key.
        resumed: whether the folder belongs to a search that was interrupted.
        log: prints a line for every trial; None prints nothing.
    """

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.factory = TrainerFactory(project.trainer_factory)
        self.finished: dict[str, TrialResult] = {}
        self.log: TrialLog | None = None
        self._data = ""  # fingerprint of the data of the finished trials
        self._influences: dict[str, InfluenceMatrix] = {}  # those that could not be written to disk
        self._identity = fingerprint_of([project.description(self.factory()), project.seed])
        self.resumed = self._restore_initial()

    @property
    def epochs_spent(self) -> int:
        """Epochs trained by all trials so far, in this process or an earlier one."""
        return sum(result.epochs for result in self.finished.values())

    def run(self, trial: Trial) -> TrialResult:
        """Run a trial, or read its result if it is finished.

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
                raise RuntimeError(f"the trial {trial.name!r} ended early: call fit again to resume from here")
            self.finished[key] = result
            self._data = self._data or result.data
            if self.log is not None:
                measured = not trial.unmeasured and result.proposed is None  # weights are measured in their own fits
                self.log.report(trial.name, result.outcome if measured else None, self.epochs_spent)
        return self.finished[key]

    def influence(self, trial: Trial) -> InfluenceMatrix:
        """The influence that a finished trial with ``analyse`` has estimated."""
        in_memory = self._influences.get(trial.key(self._identity))
        return in_memory or InfluenceMatrix.load(self._folder_of(trial) / INFLUENCE_FILE)

    def _folder_of(self, trial: Trial) -> Path:
        kind = trial.name.split(",")[0].replace(" ", "_").replace("'", "")
        return self.folder / f"{kind}_{fingerprint_of(trial.key(self._identity))}"

    def _fit(self, trial: Trial, folder: Path, key: str) -> TrialRecorder:
        with self._disk_errors(trial):
            _empty(folder)
        module, data, seed = self.project.copied_module(), self.project.datamodule, self.project.seed
        if trial.start == "weights":
            assert trial.checkpoint is not None
            module.load_state_dict(torch.load(trial.checkpoint, map_location="cpu", weights_only=True)["state_dict"])
        if trial.joins is not None:
            data = joined(data, self.project.callback.data.val_dataloader_idx, trial.joins)
        if trial.weights is not None:
            data = ReweightedDataModule(data, trial.weights, seed=seed)
        with quiet(), seeded(seed):
            trainer, recorder = self._trainer(trial, module, folder, key)
            checkpoint = trial.checkpoint if trial.start == "checkpoint" else None
            with self._disk_errors(trial):
                trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        return recorder

    def _trainer(
        self, trial: Trial, module: pl.LightningModule, folder: Path, key: str
    ) -> tuple[pl.Trainer, TrialRecorder]:
        """A new Trainer, and the callback that measures the trial."""
        trainer, callback = self.factory(), self.project.callback
        best = best_epochs(folder, trainer, monitor_of(callback)) if trial.keeps and trial.complete else None
        expected = Expectations(
            data=self._data,
            targets=self.project.targets,
            tolerance=self.project.tolerance,
            include_validation=self.project.include_validation,
        )
        recorder = TrialRecorder(trial, key, folder, callback=callback, best=best, expectations=expected)
        classwise = ParetoCallback(
            task=callback.data.task,
            class_names=callback.data.class_names,
            val_dataloader_idx=callback.data.val_dataloader_idx,
            prefix=callback.classwise.prefix,
            analyse=False,
        )
        prepare(trainer, module, folder, [classwise, recorder, *([best] if best else [])], complete=trial.complete)
        if trial.epochs is not None and trial.complete:
            trainer.fit_loop.max_epochs = trial.epochs
        return trainer, recorder

    @contextlib.contextmanager
    def _disk_errors(self, trial: Trial) -> Iterator[None]:
        """Explain what a full disk costs and how to resume. The error may come from a logger or a checkpoint."""
        try:
            yield
        except OSError as error:
            if error.errno not in _DISK:
                raise
            path = error.filename2 or error.filename
            where = f" ({path})" if path else ""
            raise OSError(
                error.errno,
                f"{error.strerror}{where}, in the trial {trial.name!r}. {len(self.finished)} finished trials are kept "
                f"in {self.folder}: free some space and call fit again to resume",
            ) from error

    def _restore_initial(self) -> bool:
        """Begin where an interrupted search began: a script that is started again has another random start."""
        path, module = self.folder / INITIAL_FILE, self.project.module
        if path.exists():
            module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            return True
        _write(module.state_dict(), path)
        return False


@rank_zero_only
def _empty(folder: Path) -> None:
    """Remove what an interrupted trial left, except for finished stages of its influence."""
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
