"""Chooses the folder of a fit's results, so that no earlier result is overwritten unless the user asks for it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lightning_pareto.integration.trainer.processes import rank_zero_warn, shard_of
from lightning_pareto.storage.run_folders import RUN_FOLDER, VERDICT_FILE, contains_results, run_folders_in


@dataclass
class ResultsFolder:
    """Folder for the results of one callback in one fit, chosen right before the first of them is written.

    Choosing it earlier would not be safe: other fits with the same log directory may end in between.

    Attributes:
        own: names of the files that the callback writes.
        home: the log directory.
        dirpath: the folder that the user asked for, if any.
        resumed: whether the fit continues from a checkpoint.
        chosen: the folder; None until it is chosen.
    """

    own: tuple[str, ...]
    home: Path
    dirpath: Path | None
    resumed: bool
    chosen: Path | None = None

    def choose(self, trainer: pl.Trainer, continues: Callable[[Path], bool]) -> Path:
        """The folder, which need not exist. It stays the same for the fit once it holds a result.

        ``dirpath`` if it is given. Otherwise the folder that another callback of this trainer has chosen, if it holds
        no result of this callback's kind. Otherwise ``pareto`` in the log directory, or ``pareto_1`` and so on if there
        are results in it. A fit that continues from a checkpoint continues in the last folder, if the results there
        belong to this fit and there is no verdict yet.

        Args:
            trainer: the trainer of the fit.
            continues: whether a fit from a checkpoint continues the results in a folder.
        """
        if self.chosen is None or not contains_results(self.chosen, self.own):
            self.chosen = self.dirpath or self._default(trainer, continues)
        return self.chosen

    def _default(self, trainer: pl.Trainer, continues: Callable[[Path], bool]) -> Path:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        folders = [getattr(each, "results_folder", None) for each in callbacks]
        own = [each for each in folders if isinstance(each, ResultsFolder) and each.dirpath is None]
        siblings = [each for each in own if each is not self]
        alike = [sibling.chosen for sibling in siblings if sibling.own == self.own]
        others = [sibling.chosen for sibling in siblings if sibling.own != self.own and sibling.chosen is not None]
        for folder in others:
            if not contains_results(folder, self.own):
                return folder
        newest, unused = _newest_and_unused(self.home)
        unfinished = self.resumed and newest not in alike and not contains_results(newest, (VERDICT_FILE,))
        if unfinished and (newest in others or continues(newest)):
            return newest
        if unused != newest:
            rank_zero_info(f"{newest} holds the results of an earlier fit. Those of this fit are written to {unused}")
        return unused


def prepare_results_folder(
    trainer: pl.Trainer, module: pl.LightningModule, dirpath: Path | None, own: tuple[str, ...]
) -> ResultsFolder:
    """Check before the fit whether its results can be written. Every process has to call it.

    Args:
        trainer: at the start of its fit.
        module: the module to be fitted.
        dirpath: the folder that the user asked for; None for a folder in the log directory.
        own: names of the files that the callback writes.

    Returns:
        Chooses the folder once there are results to write. If the log directory cannot be written, a warning has said
        that they will be in memory only.

    Raises:
        OSError: if ``dirpath`` is given and cannot be written.
        OtherProcessError: if the first process found that.
    """
    home = Path(trainer.log_dir or trainer.default_root_dir)  # a collective operation
    with shard_of(trainer, module).agreement("check before the fit"):
        folder = dirpath or _newest_and_unused(home)[1]
        reason = why_not_writable(folder) if trainer.is_global_zero else None
        if reason and dirpath is not None:
            raise OSError(f"results cannot be written to dirpath={str(dirpath)!r}: {reason}. Give another folder")
        if reason:
            rank_zero_warn(f"results will be in memory only, since they cannot be written to {folder}: {reason}")
    return ResultsFolder(own, home, dirpath, resumed=trainer.ckpt_path is not None)


def why_not_writable(folder: Path) -> str | None:
    """Why a folder cannot be created and written, as far as can be known without writing; None if it can."""
    try:
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not existing.is_dir():
            return f"{existing} is not a folder"
    except OSError as error:
        return str(error)
    writable = os.access(existing, os.W_OK | os.X_OK)
    return None if writable else f"{existing} cannot be written (a read-only disk, or missing permissions)"


def _newest_and_unused(home: Path) -> tuple[Path, Path]:
    """The last folder with results in a log directory, and the first unused one; ``pareto`` twice if there is none."""
    try:
        newest = run_folders_in(home)[0]
    except OSError:  # the log directory cannot be read; writing there will report it
        return home / RUN_FOLDER, home / RUN_FOLDER
    if not contains_results(newest):
        return newest, newest
    number = 1 if newest.name == RUN_FOLDER else int(newest.name.rpartition("_")[2]) + 1
    return newest, home / f"{RUN_FOLDER}_{number}"
