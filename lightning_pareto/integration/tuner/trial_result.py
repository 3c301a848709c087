"""The result of a trial, and its file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.evaluation.result import TrialSummary
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.storage.artifacts import consistent_parts, load_artifact, save_artifact

TRIAL_FILE = "trial.safetensors"


@dataclass(frozen=True, eq=False)
class TrialResult:
    """A finished trial.

    Attributes:
        name: name of the trial.
        outcome: on the validation set, at the best epoch of a complete fit, else at the end.
        epochs: epochs trained in this trial.
        best_epoch: epochs trained when the outcome was reached.
        history: mean accuracy over the classes after each validation of the trial.
        checkpoint: checkpoint of the best epoch, if it was kept.
        next_checkpoint: checkpoint of the best epoch other than the last. One more epoch fits into its schedule.
        data: fingerprint of the data that it was trained and measured on.
        proposed: weights that a candidate proposes for a fit, (N,), instead of another model; None if there are none.
    """

    name: str
    outcome: Outcome
    epochs: int
    best_epoch: int
    history: Float
    checkpoint: Path | None = None
    next_checkpoint: Path | None = None
    data: str = ""
    proposed: Float | None = None

    @property
    def summary(self) -> TrialSummary:
        """The trial in one line."""
        accuracy = self.outcome.accuracy
        return TrialSummary(self.name, self.epochs, float(np.nanmean(accuracy)), float(np.nanmin(accuracy)))

    def save(self, folder: Path, key: str) -> None:
        """Write the result to a trial's folder, whole or not at all."""
        arrays = {**self.outcome.arrays, "history": np.asarray(self.history, dtype=np.float64)}
        if self.proposed is not None:
            arrays["proposed"] = self.proposed
        metadata = {
            "key": key,
            "name": self.name,
            "category_names": list(self.outcome.category_names),
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "data": self.data,
            "checkpoints": [path and path.name for path in (self.checkpoint, self.next_checkpoint)],
        }
        save_artifact(folder / TRIAL_FILE, "trial", arrays, metadata)

    @classmethod
    def load(cls, folder: Path, key: str) -> "TrialResult | None":
        """Read the result of a finished trial; None if there is none, or it belongs to another trial.

        Raises:
            ArtifactError: if the file is not a complete result.
        """
        if not (folder / TRIAL_FILE).exists():
            return None
        arrays, metadata = load_artifact(folder / TRIAL_FILE, "trial")
        with consistent_parts(folder / TRIAL_FILE):
            if metadata["key"] != key:
                return None
            checkpoint, next_checkpoint = (_inside(folder, name) for name in metadata["checkpoints"])
            return cls(
                name=str(metadata["name"]),
                outcome=Outcome.of_arrays(arrays, metadata),
                epochs=int(metadata["epochs"]),
                best_epoch=int(metadata["best_epoch"]),
                history=arrays["history"],
                checkpoint=checkpoint,
                next_checkpoint=next_checkpoint,
                data=str(metadata["data"]),
                proposed=arrays.get("proposed"),
            )


def _inside(folder: Path, name: str | None) -> Path | None:
    """A file of the folder. The name must not lead anywhere else."""
    if name is None:
        return None
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not the name of a file")
    return folder / name
