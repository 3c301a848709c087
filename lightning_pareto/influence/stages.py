"""Saves the finished stages of a long computation, so that it can resume after an interruption."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from lightning_pareto.display.warning import warn
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.storage.artifacts import load_artifact, remove_temporary_files, save_artifact

Tensors = dict[str, Tensor]


class StagesError(ValueError):
    """The stages on disk belong to another computation."""


class Stages:
    """Saves the result of each stage. A computation that was interrupted resumes after the last finished one.

    The first process writes to a folder that all see; None saves nothing. It creates the folder, and removes leftovers
    of killed writers. The ``key`` identifies the computation by its model, data and options. Set :attr:`variant`, a
    suffix of file names, to tell apart results of one computation that are not interchangeable.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, key: str, shard: Shard) -> None:
        self._folder = None if folder is None else Path(folder)
        self._key = key
        self._shard = shard
        self._paths: set[Path] = set()
        self.variant = ""
        if self._folder is not None and shard.index == 0:
            with self._warning():
                self._folder.mkdir(parents=True, exist_ok=True)
                remove_temporary_files(self._folder, "*.safetensors")

    def load_or_compute(self, name: str, compute: Callable[[], Tensors], device: torch.device) -> Tensors:
        """Return the result of a stage, loaded to ``device`` if it was finished before.

        ``compute`` must return the same tensors on every process.

        Raises:
            StagesError: if the folder holds stages of another model, other data or other options.
            ArtifactError: if a file is damaged.
        """
        if self._folder is None:
            return compute()
        path = self._folder / f"{name}{self.variant}.safetensors"
        self._paths.add(path)
        with self._shard.agreement("reading of finished stages"):
            found = self._read(path) if path.exists() else None
        if self._shard.all(found is not None) and found is not None:
            return {key: value.to(device) for key, value in found.items()}
        result = compute()
        with self._shard.agreement("writing of a finished stage"), self._warning():
            if self._shard.index == 0:
                arrays = {key: value.detach().cpu().numpy() for key, value in result.items()}
                save_artifact(path, "stage", arrays, {"key": self._key})
        return result

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Warn if nothing can be written. The results are in memory, so the computation can continue."""
        try:
            yield
        except OSError as error:
            warn(
                f"finished stages cannot be kept in {self._folder} ({error}). The computation continues, but would "
                "start over after an interruption. Free some space there, or pass another folder"
            )

    def clear(self) -> None:
        """Remove the stages once the computation is done, and the folder too if it is then empty."""
        if self._folder is None or self._shard.index > 0:
            return
        try:
            for path in filter(Path.exists, self._paths):
                path.unlink(missing_ok=True)
            if self._folder.exists() and not any(self._folder.iterdir()):
                self._folder.rmdir()
        except OSError as error:
            warn(f"finished stages are left in {self._folder}: {error}")

    def _read(self, path: Path) -> Tensors:
        arrays, metadata = load_artifact(path, "stage")
        if metadata.get("key") != self._key:
            raise StagesError(
                f"{path} belongs to another computation: the model, the data or the options have changed since it was "
                "interrupted. To start over, delete the folder or pass another one"
            )
        # copies have the same memory alignment as computed tensors, which keeps later results bit-identical
        return {key: torch.from_numpy(array).clone() for key, array in arrays.items()}
