"""The folder that a fit's results go to, so that nothing of an earlier one is replaced unasked."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_pareto.integration.trainer.processes import shard_of
from lightning_pareto.storage.run_folders import RUN_FOLDER, VERDICT_FILE, contains_results, run_folders_in


@dataclass
class ResultsFolder:
    """Where the results of one callback go in one fit, chosen right before the first of them is written.

    Not earlier, as other fits with the same log directory may end in between.

    Attributes:
        own: names of the files that the callback writes.
        home: the log directory.
        dirpath: what the user says, None for nothing.
        resumed: whether the fit goes on from a checkpoint.
        chosen: the folder, None until it is chosen.
    """

    own: tuple[str, ...]
    home: Path
    dirpath: Path | None
    resumed: bool
    chosen: Path | None = None

    def choose(self, trainer: pl.Trainer, continued: Callable[[Path], bool]) -> Path:
        """The folder, which need not be there; the same for the rest of the fit once there is something in it.

        ``dirpath`` if it is given. Else that of a callback of another kind in this trainer, if it has chosen one and
        nothing of this one's is in it; else ``pareto`` in the log directory or, where there are results in it,
        ``pareto_1`` and so on. A fit that goes on from a checkpoint goes on with the last of them, if those are of this
        fit and there is no verdict yet.

        Args:
            trainer: of the fit.
            continued: whether the results in a folder are those that a fit from a checkpoint goes on with.
        """
        if self.chosen is None or not contains_results(self.chosen, self.own):
            self.chosen = self.dirpath or self._default(trainer, continued)
        return self.chosen

    def _default(self, trainer: pl.Trainer, continued: Callable[[Path], bool]) -> Path:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        places = [place for each in callbacks if isinstance(place := getattr(each, "_place", None), ResultsFolder)]
        places = [place for place in places if place is not self and place.dirpath is None]
        alike = [place.chosen for place in places if place.own == self.own]
        others = [place.chosen for place in places if place.own != self.own and place.chosen is not None]
        for folder in others:
            if not contains_results(folder, self.own):
                return folder
        newest, unused = _newest_and_unused(self.home)
        begun = self.resumed and newest not in alike and not contains_results(newest, (VERDICT_FILE,))
        if begun and (newest in others or continued(newest)):
            return newest
        if unused != newest:
            rank_zero_info(f"{newest} holds the results of an earlier fit, those of this one go to {unused}")
        return unused


def results_folder(
    trainer: pl.Trainer, module: pl.LightningModule, dirpath: Path | None, own: tuple[str, ...]
) -> ResultsFolder:
    """Ask before the fit whether its results can be written; every process has to call it.

    Args:
        trainer: at the start of its fit.
        module: what it fits.
        dirpath: what the user says; None for a folder in the log directory.
        own: names of the files that the callback writes.

    Returns:
        From which the folder is had when there are results. If the log directory cannot be written a warning has said
        that they will be in memory only.

    Raises:
        OSError: if ``dirpath`` is given and cannot be written.
        OtherProcessError: if the first process found that.
    """
    home = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
    with shard_of(trainer, module).agreement("check before the fit"):
        folder = dirpath or _newest_and_unused(home)[1]
        reason = why_not_writable(folder) if trainer.is_global_zero else None
        if reason and dirpath is not None:
            raise OSError(f"results cannot be written to dirpath={str(dirpath)!r}: {reason}. Give another folder")
        if reason:
            rank_zero_warn(f"results will be in memory only, they cannot be written to {folder}: {reason}")
    return ResultsFolder(own, home, dirpath, resumed=trainer.ckpt_path is not None)


def why_not_writable(folder: Path) -> str | None:
    """What keeps a folder from being made and written, as far as it can be known without writing; None for nothing."""
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir():
            return f"{there} is not a folder"
    except OSError as error:
        return str(error)
    return (
        None if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written (a read-only disk, or its rights)"
    )


def _newest_and_unused(home: Path) -> tuple[Path, Path]:
    """The last folder with results in a log directory, and the first after it; twice ``pareto`` where none has any."""
    try:
        newest = run_folders_in(home)[0]
    except OSError:  # the log directory cannot be read, and who writes there will say so
        return home / RUN_FOLDER, home / RUN_FOLDER
    if not contains_results(newest):
        return newest, newest
    number = 1 if newest.name == RUN_FOLDER else int(newest.name.rpartition("_")[2]) + 1
    return newest, home / f"{RUN_FOLDER}_{number}"
