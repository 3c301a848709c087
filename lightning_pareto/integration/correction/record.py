"""What a CourseCorrection did, wherever the fit ran."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from lightning_pareto.integration.output.log_verdict import log_values
from lightning_pareto.integration.output.results_folder import ResultsFolder
from lightning_pareto.integration.trainer.processes import SharedMessage, rank_zero_warn
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.storage.artifacts import ArtifactError, consistent_parts, remove_temporary_files, write_atomically
from lightning_pareto.storage.run_folders import RECORD_FILE


@dataclass(frozen=True)
class Correction:
    """An epoch that was rerun.

    Attributes:
        epoch: number of the epoch, from 0, as in ``trainer.current_epoch``.
        fallen: the categories that fell, which the weights were meant to raise.
        category_names: names of all categories.
        before: validation accuracy of each category at the end of the previous epoch; NaN without samples.
        ordinary: the same at the end of the ordinary epoch.
        again: the same at the end of the rerun with weights; empty if it did not run to its end.
        accepted: whether the fit continued from the rerun.
    """

    epoch: int
    fallen: tuple[str, ...]
    category_names: tuple[str, ...]
    before: tuple[float, ...]
    ordinary: tuple[float, ...]
    again: tuple[float, ...]
    accepted: bool

    def __str__(self) -> str:
        where = [self.category_names.index(name) for name in self.fallen]
        falls = ", ".join(
            f"{self.category_names[k]!r} fell from {self.before[k]:.3f} to {self.ordinary[k]:.3f}"
            + (f" (rerun {self.again[k]:.3f})" if self.again else "")
            for k in where
        )
        decision = "kept" if self.accepted else f"not kept: {self._objection(where)}"
        return f"epoch {self.epoch} was rerun because {falls}. The rerun was {decision}"

    def _objection(self, where: list[int]) -> str:
        """The category that did worst in the rerun, compared with the ordinary epoch."""
        if not self.again:
            return "it did not run to its end"
        change = [b - a if b == b and a == a else 0.0 for a, b in zip(self.ordinary, self.again, strict=True)]
        low = [k for k in where if change[k] <= 0]
        worst = min(low or range(len(change)), key=lambda k: change[k])
        name, after, ordinary = self.category_names[worst], self.again[worst], self.ordinary[worst]
        return f"{name!r} is at {after:.3f}, after the ordinary epoch at {ordinary:.3f}"

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Correction":
        """The correction of a plain dict made by ``asdict``."""
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in state.items()}
        return cls(**values)


class Record:
    """The corrections of the last fit: in memory if this process made them, else on disk."""

    def __init__(self) -> None:
        self._made: list[Correction] = []
        self._fit = 0  # number of the fit that they belong to
        self._message = SharedMessage()

    def begin_fit(self, first: bool) -> None:
        """Forget the previous fit.

        Args:
            first: True in exactly one of the processes that a strategy starts on a machine.
        """
        self._made = []
        if first:
            self._message.begin_fit()

    def replace(self, made: Sequence[Correction]) -> None:
        """Take over the corrections of a resumed fit."""
        self._made, self._fit = list(made), self._message.fits

    def add(self, correction: Correction) -> None:
        """Add a correction."""
        self.replace([*self.corrections, correction])

    def save(self, folder: Path) -> None:
        """Write the corrections to ``folder``, remove the weights of others, and tell the processes where they are.

        Raises:
            OSError: if the folder cannot be written.
        """
        write_atomically(folder / RECORD_FILE, f"[{','.join(_texts(self._made))}]".encode())
        self._message.put(str(folder.resolve()))
        remove_temporary_files(folder, RECORD_FILE)
        own = {weights_file(each.epoch) for each in self._made}
        for path in folder.glob(weights_file("*")):
            if path.name not in own and re.fullmatch(weights_file("[0-9]+"), path.name):
                path.unlink(missing_ok=True)

    def continues(self, folder: Path) -> bool:
        """Whether what is written in ``folder`` is a beginning of these corrections."""
        try:
            written = _read(folder / RECORD_FILE)
        except (OSError, ArtifactError):
            return False
        return _texts(self.corrections)[: len(written)] == _texts(written)

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """All corrections of the last fit, in order."""
        if self._fit == self._message.fits:
            return tuple(self._made)
        folder = self._message.get()
        return _read(Path(folder) / RECORD_FILE) if folder else ()


def _read(path: Path) -> tuple[Correction, ...]:
    with consistent_parts(path):
        return tuple(Correction.of(state) for state in json.loads(path.read_text()))


def _texts(corrections: Sequence[Correction]) -> list[str]:
    """The corrections as written to disk. As texts they can be compared even if they contain NaN."""
    return [json.dumps(asdict(each), indent=1) for each in corrections]


def weights_file(epoch: int | str) -> str:
    """Name of the file with the weights of a rerun."""
    return f"correction_{epoch}.safetensors"


def save_resumed_record(trainer: pl.Trainer, record: Record, place: ResultsFolder) -> None:
    """Write the corrections of a resumed fit that has made no correction since, at the end of the fit.

    Args:
        trainer: at the end of the fit.
        record: the corrections from the checkpoint, if any.
        place: where to write them. Nothing is written if there is nothing to say and nothing to replace.
    """
    replaces = place.dirpath is not None and (place.dirpath / RECORD_FILE).exists()
    if trainer.is_global_zero and place.chosen is None and (record.corrections or replaces):
        _save(record, place.choose(trainer, record.continues))


def publish(
    trainer: pl.Trainer,
    record: Record,
    correction: Correction,
    weights: SampleWeights,
    place: ResultsFolder,
    *,
    verbose: bool,
) -> None:
    """Record a correction, write it to disk, print and log it.

    Args:
        trainer: during the fit.
        record: the earlier corrections of this fit.
        correction: the new one.
        weights: weights of the rerun.
        place: where record and weights are written. A failure becomes a warning.
        verbose: whether to print a line.
    """
    folder = place.choose(trainer, record.continues)
    record.add(correction)
    if trainer.is_global_zero:
        _save(record, folder, weights)
        if verbose:
            print(f"\n{textwrap.fill(f'CourseCorrection: {correction}', 80)}\n", flush=True)  # noqa: T201
    after = correction.again or correction.ordinary
    gains = zip(correction.category_names, correction.ordinary, after, strict=True)
    values = {f"pareto/correction/gain/{name}": again - ordinary for name, ordinary, again in gains}
    values["pareto/correction/accepted"] = float(correction.accepted)
    log_values(trainer, values, "a correction's numbers")


def _save(record: Record, folder: Path, weights: SampleWeights | None = None) -> None:
    try:
        if weights is not None:
            weights.save(folder / weights_file(record.corrections[-1].epoch))
        record.save(folder)
    except OSError as error:
        rank_zero_warn(f"the corrections could not be written to {folder} and are in memory only: {error}")
