"""What a CourseCorrection did, wherever the fit ran."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from lightning_pareto.integration.output.publish import log_values
from lightning_pareto.integration.output.results_folder import ResultsFolder
from lightning_pareto.integration.trainer.shared_message import Mailbox
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.storage.artifacts import ArtifactError, consistent_parts, remove_temporary_files, write_atomically
from lightning_pareto.storage.run_folders import RECORD_FILE


@dataclass(frozen=True)
class Correction:
    """An epoch that was taken a second time.

    Attributes:
        epoch: number of the epoch, from 0, as ``trainer.current_epoch`` had it.
        fallen: the categories that fell, which the weights were to raise.
        category_names: all categories.
        before: validation accuracy of every category at the end of the epoch before; NaN without samples.
        ordinary: at the end of the epoch as it was first taken.
        again: at the end of the epoch taken again with weights; empty if it was not run to its end.
        accepted: whether the fit went on from the epoch taken again.
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
        told = ", ".join(
            f"{self.category_names[k]!r} from {self.before[k]:.3f} to {self.ordinary[k]:.3f}"
            + (f" (with weights {self.again[k]:.3f})" if self.again else "")
            for k in where
        )
        kept = "kept" if self.accepted else f"not kept, {self._objection(where)}"
        return f"epoch {self.epoch} taken again, after {told}; {kept}"

    def _objection(self, where: list[int]) -> str:
        """The category that did worst in the epoch taken again, against the ordinary one."""
        if not self.again:
            return "it was not run to its end"
        change = [b - a if b == b and a == a else 0.0 for a, b in zip(self.ordinary, self.again, strict=True)]
        low = [k for k in where if change[k] <= 0]
        worst = min(low or range(len(change)), key=lambda k: change[k])
        return f"as {self.category_names[worst]!r} is at {self.again[worst]:.3f}, ordinarily {self.ordinary[worst]:.3f}"

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Correction":
        """The correction of a plain dict, as ``asdict`` makes one."""
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in state.items()}
        return cls(**values)


class Record:
    """The corrections of the last fit: in memory where this process made them, on disk where another one did."""

    def __init__(self) -> None:
        self._made: list[Correction] = []
        self._fit = 0  # the one that they are of
        self._mailbox = Mailbox()

    def begin_fit(self, first: bool) -> None:
        """Forget the fit before; ``first`` for one process of those that a strategy starts on a machine."""
        self._made = []
        if first:
            self._mailbox.begin_fit()

    def replace(self, made: Sequence[Correction]) -> None:
        """Take over the corrections of a fit that is resumed."""
        self._made, self._fit = list(made), self._mailbox.fits

    def add(self, correction: Correction) -> None:
        """Note a correction."""
        self.replace([*self.corrections, correction])

    def save(self, folder: Path) -> None:
        """Write them to ``folder``, whole or not at all, remove the weights of others, and tell the processes where.

        Raises:
            OSError: if the folder cannot be written.
        """
        write_atomically(folder / RECORD_FILE, f"[{','.join(_texts(self._made))}]".encode())
        self._mailbox.put(str(folder.resolve()))
        remove_temporary_files(folder, RECORD_FILE)
        own = {weights_file(each.epoch) for each in self._made}
        for path in folder.glob(weights_file("*")):
            if path.name not in own and re.fullmatch(weights_file("[0-9]+"), path.name):
                path.unlink(missing_ok=True)

    def continues(self, folder: Path) -> bool:
        """Whether what is written there is the beginning of these corrections, or all of them."""
        try:
            written = _read(folder / RECORD_FILE)
        except (OSError, ArtifactError):
            return False
        return _texts(self.corrections)[: len(written)] == _texts(written)

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """All corrections of the last fit, in order."""
        if self._fit == self._mailbox.fits:
            return tuple(self._made)
        folder = self._mailbox.get()
        if not folder:
            return ()
        return _read(Path(folder) / RECORD_FILE)


def _read(path: Path) -> tuple[Correction, ...]:
    with consistent_parts(path):
        return tuple(Correction.of(state) for state in json.loads(path.read_text()))


def _texts(corrections: Sequence[Correction]) -> list[str]:
    """As they are written, in which also those can be compared that have NaN in them."""
    return [json.dumps(asdict(each), indent=1) for each in corrections]


def weights_file(epoch: int | str) -> str:
    """Name of the weights that an epoch was taken again with."""
    return f"correction_{epoch}.safetensors"


def end_record(trainer: pl.Trainer, record: Record, place: ResultsFolder) -> None:
    """Let the disk say at the end of a fit without corrections what those before it was resumed are, if any.

    Args:
        trainer: at the end of the fit.
        record: empty, or as the checkpoint has it.
        place: where it is written; nothing is if there is nothing to say and nothing to replace.
    """
    replaces = place.dirpath is not None and (place.dirpath / RECORD_FILE).exists()
    if trainer.is_global_zero and place.chosen is None and (record.corrections or replaces):
        _saved(record, place.choose(trainer, record.continues))


def publish(
    trainer: pl.Trainer, record: Record, done: Correction, weights: SampleWeights, place: ResultsFolder, verbose: bool
) -> None:
    """Note a correction, and give it to the disk, the terminal and the loggers.

    Args:
        trainer: during the fit.
        record: the corrections of this fit before it.
        done: the correction.
        weights: what the epoch was taken again with.
        place: where record and weights are written; a warning if they cannot be.
        verbose: print a line.
    """
    folder = place.choose(trainer, record.continues)
    record.add(done)
    if trainer.is_global_zero:
        _saved(record, folder, weights)
        if verbose:
            print(f"\n{textwrap.fill(f'CourseCorrection: {done}', 80)}\n", flush=True)  # noqa: T201
    gains = zip(done.category_names, done.ordinary, done.again or done.ordinary, strict=True)
    values = {f"pareto/correction/gain/{name}": again - ordinary for name, ordinary, again in gains}
    log_values(trainer, {"pareto/correction/accepted": float(done.accepted), **values}, "a correction's figures")


def _saved(record: Record, folder: Path, weights: SampleWeights | None = None) -> None:
    try:
        if weights is not None:
            weights.save(folder / weights_file(record.corrections[-1].epoch))
        record.save(folder)
    except OSError as error:
        rank_zero_warn(f"the corrections could not be written to {folder} and are in memory only: {error}")
