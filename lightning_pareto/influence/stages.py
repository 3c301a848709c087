"""Finished stages of a long computation, kept on disk until all of it is done."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_pareto.influence.sharding import Shard
from lightning_pareto.storage.artifacts import load_artifact, remove_temporary_files, save_artifact

Tensors = dict[str, Tensor]


class StagesError(ValueError):
    """Stages on disk belong to another computation."""


class Stages:
    """Keeps what each stage found, so that an interrupted computation goes on after the last finished one.

    Args:
        folder: where; None keeps nothing. Several processes must all see it.
        key: what identifies the computation: its model, data and options.
        shard: this process; the first one writes.

    Attributes:
        variant: what else tells stages apart that belong to the same computation, as a part of their names.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, key: str, shard: Shard) -> None:
        self._folder = None if folder is None else Path(folder)
        self._key = key
        self._shard = shard
        self._paths: set[Path] = set()
        self.variant = ""

    def kept(self, name: str, compute: Callable[[], Tensors], device: torch.device) -> Tensors:
        """Return what a stage finds, from disk if it was finished before.

        Args:
            name: of the stage.
            compute: does the stage's work; every process ends with the same tensors.
            device: where to put loaded tensors.

        Raises:
            StagesError: if the folder holds the stages of another model, other data or other options.
            ArtifactError: if a stage is damaged.
        """
        if self._folder is None:
            return compute()
        path = self._folder / f"{name}{self.variant}.safetensors"
        self._paths.add(path)
        with self._shard.agreement("reading of finished stages"):
            found = self._read(path) if path.exists() else None
        if int(self._shard.sum(torch.tensor([int(found is not None)]))) == self._shard.count and found is not None:
            return {key: value.to(device) for key, value in found.items()}
        result = compute()
        with self._shard.agreement("writing of a finished stage"):
            if self._shard.index == 0:
                self._write(path, {key: value.detach().cpu().numpy() for key, value in result.items()})
        return result

    def begin(self) -> None:
        """Make the folder, and remove what a writer that was killed has left there; a warning if it cannot be made."""
        if self._folder is None or self._shard.index > 0:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_temporary_files(self._folder, "*.safetensors")
        except OSError as error:
            self._warn(error)

    def _write(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        try:
            save_artifact(path, "stage", arrays, {"key": self._key})
        except OSError as error:  # what was computed is in memory, and the computation can go on
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        warnings.warn(
            f"finished stages cannot be kept in {self._folder} ({error}): the computation goes on, and would begin "
            "anew after an interruption. Free some space there, or give another folder",
            stacklevel=3,
        )

    def clear(self) -> None:
        """Remove them, once the whole is done, and the folder if nothing else is in it."""
        if self._folder is None or self._shard.index > 0:
            return
        try:
            for path in filter(Path.exists, self._paths):
                path.unlink(missing_ok=True)
            if self._folder.exists() and not any(self._folder.iterdir()):
                self._folder.rmdir()
        except OSError as error:
            warnings.warn(f"finished stages are left in {self._folder}: {error}", stacklevel=2)
        self._paths.clear()

    def _read(self, path: Path) -> Tensors:
        arrays, metadata = load_artifact(path, "stage")
        if metadata.get("key") != self._key:
            raise StagesError(
                f"{path} belongs to another computation: the model, the data or the options have changed since it was "
                "interrupted. Delete the folder, or give another one, to compute from the beginning"
            )
        # copies are aligned as when they were computed, so that what follows has the same bits
        return {key: torch.from_numpy(array).clone() for key, array in arrays.items()}
