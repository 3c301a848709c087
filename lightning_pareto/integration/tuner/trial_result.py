"""What a trial leaves on disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.evaluation.result import TrialSummary
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.storage.artifacts import consistent_parts, load_artifact, save_artifact


@dataclass(frozen=True, eq=False)
class TrialResult:
    """A finished trial.

    Attributes:
        name: of the trial.
        outcome: on the validation set, at the best epoch of a whole fit, else at the end.
        epochs: trained in this trial.
        best_epoch: epochs trained when the outcome was reached.
        history: mean accuracy over the classes after each validation of the trial.
        checkpoint: of the best epoch, if it was kept.
        next_checkpoint: of the best epoch but the last, from which a further epoch fits into the schedule.
        data: what tells the data that it was trained and measured on from others.
    """

    name: str
    outcome: Outcome
    epochs: int
    best_epoch: int
    history: Float
    checkpoint: Path | None = None
    next_checkpoint: Path | None = None
    data: str = ""

    def save(self, folder: Path, key: str) -> None:
        """Write the result to a trial's folder, whole or not at all."""
        outcome = self.outcome
        arrays: dict[str, np.ndarray] = {
            "category": outcome.category,
            "correct": outcome.correct.astype(np.uint8),
            "probability": outcome.probability,
            "history": np.asarray(self.history, dtype=np.float64),
        }
        metadata = {
            "key": key,
            "name": self.name,
            "category_names": list(outcome.names),
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "data": self.data,
            "checkpoints": [path and path.name for path in (self.checkpoint, self.next_checkpoint)],
        }
        save_artifact(folder / RESULT_FILE, "trial", arrays, metadata)

    @classmethod
    def load(cls, folder: Path, key: str) -> "TrialResult | None":
        """Read the result of a finished trial; None if there is none, or it is that of another trial.

        Raises:
            ArtifactError: if the file is not a whole result.
        """
        if not (folder / RESULT_FILE).exists():
            return None
        arrays, metadata = load_artifact(folder / RESULT_FILE, "trial")
        with consistent_parts(folder / RESULT_FILE):
            if metadata["key"] != key:
                return None
            names = tuple(map(str, metadata["category_names"]))
            outcome = Outcome(arrays["category"], arrays["correct"].astype(bool), arrays["probability"], names)
            best, following = (_within(folder, name) for name in metadata["checkpoints"])
            epochs, best_epoch, data = int(metadata["epochs"]), int(metadata["best_epoch"]), str(metadata["data"])
            return cls(str(metadata["name"]), outcome, epochs, best_epoch, arrays["history"], best, following, data)


def _within(folder: Path, name: str | None) -> Path | None:
    """A file of the folder, by a name that leads nowhere else."""
    if name is None:
        return None
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not the name of a file")
    return folder / name


def summary_of(result: TrialResult) -> TrialSummary:
    """A finished trial in one line."""
    accuracy = result.outcome.accuracy
    return TrialSummary(result.name, result.epochs, float(np.nanmean(accuracy)), float(np.nanmin(accuracy)))


RESULT_FILE = "trial.safetensors"
