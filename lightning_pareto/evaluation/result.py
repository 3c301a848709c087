"""What a search for a better second fit came to."""

import os
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pareto.display.notebook import data_frame, html_table, numbers
from lightning_pareto.display.terminal import columns, harmless, harmless_line, padded
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.storage.artifacts import consistent_parts, load_artifact, save_artifact


@dataclass(frozen=True)
class TrialSummary:
    """A line about one trial.

    Attributes:
        name: what was tried.
        epochs: trained in it.
        macro: mean validation accuracy over the categories; NaN where it trained on all of the validation data.
        worst: the lowest validation accuracy of a category.
    """

    name: str
    epochs: int
    macro: float
    worst: float


@dataclass(frozen=True, eq=False, repr=False)
class ParetoResult:
    """What :class:`ParetoTuner` hands back.

    A model is measured on validation samples that its weights know nothing of. Where both halves of the validation set
    made weights in the same way, ``after`` is that of both models, each on the other half; the one that did better is
    handed back, so that its own accuracy is a little less certain. Measure it on data that no decision has seen.

    Attributes:
        category_names: the K categories.
        before: validation accuracy of every category of the model to start with, (K,).
        after: of the model handed back, (K,).
        support: validation samples of every category that were measured on, (K,).
        p_values: one-sided exact p-value of H0 "this category does not fall" from before to after, (K,).
        refused: where none was accepted, ``after`` of the best reweighted model in its place, (K,): ``after`` and the
            change from it to that model on the samples that its weights have not seen. NaN if there is none.
        gain: change of the mean accuracy from the best ordinary model to the best reweighted one, or to the fits with
            validation data and no weights where one of those is handed back.
        gain_error: its standard error for the sampling of validation data.
        accepted: whether reweighting made a model that is better than every ordinary one beyond chance, and worse on no
            category beyond chance. If not, the best ordinary model is handed back.
        reason: why it was accepted, or not.
        weights: the weights of the model handed back; None if it is an ordinary one.
        ckpt_path: the checkpoint of the model handed back.
        best_epoch: epochs trained when validation chose it.
        epochs_spent: epochs trained by all trials.
        trials: all of them, in order.
    """

    category_names: tuple[str, ...]
    before: Float
    after: Float
    support: np.ndarray = field(repr=False)
    p_values: Float = field(repr=False)
    refused: Float = field(repr=False)
    gain: float
    gain_error: float
    accepted: bool
    reason: str
    weights: SampleWeights | None
    ckpt_path: str
    best_epoch: int
    epochs_spent: int
    trials: tuple[TrialSummary, ...]

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            if np.shape(getattr(self, name)) != (len(self.category_names),):
                raise ValueError(f"{name} must have {len(self.category_names)} values, one for each category")

    def __repr__(self) -> str:
        return (
            f"ParetoResult(accepted={self.accepted}, mean {np.nanmean(self.before):.1%} to "
            f"{np.nanmean(self.after):.1%}, {self.epochs_spent} epochs spent)"
        )

    def __str__(self) -> str:
        told = not np.isnan(self.refused).all()
        names = [harmless(name, 21 if told else 30) for name in self.category_names]
        width = max(8, *map(columns, names))
        refused = "  refused" if told else ""
        rows = [f"{'category':<{width}}  before   after  change  p of a fall  samples{refused}"]
        for k in np.argsort(self.before):
            change = self.after[k] - self.before[k]
            rows.append(
                f"{padded(names[k], width)}  {self.before[k]:6.1%}  {self.after[k]:6.1%}  "
                f"{100 * change:+6.1f}  {self.p_values[k]:11.2g}  {self.support[k]:7d}"
                + (f"  {self.refused[k]:7.1%}" if told else "")
            )
        mean = np.nanmean(self.before), np.nanmean(self.after)
        rows.append(f"{'mean':<{width}}  {mean[0]:6.1%}  {mean[1]:6.1%}  {100 * (mean[1] - mean[0]):+6.1f}")
        if told:
            rows[-1] += f"{np.nanmean(self.refused):31.1%}"
        verb = "accepted" if self.accepted else "not accepted"
        column = ["", "Column refused: what the reweighted model that was refused would have had in", "place of after."]
        return "\n".join(
            [
                f"Reweighted model {verb}:",
                *map(harmless_line, textwrap.wrap(self.reason, 80)),
                "",
                *rows,
                *(column if told else []),
                "",
                "Accuracy on validation samples that the weights have not seen; as they chose",
                "the model, measure it on others. Each p is of one category alone; a fall",
                "counts as beyond chance where it is for all of them together (Holm).",
                f"{self.epochs_spent} epochs spent in {len(self.trials)} trials.",
                f"Model: {harmless_line(self.ckpt_path)}",
            ]
        )

    def _repr_html_(self) -> str:
        columns = {
            "category": self.category_names,
            "before": numbers(self.before, "{:.1%}"),
            "after": numbers(self.after, "{:.1%}"),
            "change": numbers(100 * (self.after - self.before), "{:+.1f}"),
            "p of a fall": numbers(self.p_values, "{:.2g}"),
            "samples": numbers(self.support, "{:.0f}"),
        }
        if not np.isnan(self.refused).all():
            columns["refused"] = numbers(self.refused, "{:.1%}")
        verb = "accepted" if self.accepted else "not accepted"
        return html_table(f"Reweighted model {verb}", columns, [self.reason, f"Model: {self.ckpt_path}"])

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each category.

        Raises:
            ImportError: without pandas, with the command that installs it.
        """
        columns = {name: getattr(self, name) for name in _ARRAYS if not np.isnan(getattr(self, name)).all()}
        return data_frame(columns | {"change": self.after - self.before}, self.category_names, "category")

    def plot(self, ax: Any = None) -> Any:
        """Draw the accuracy of every category before and after, see :func:`lightning_pareto.plot_accuracy`."""
        from lightning_pareto.report.figures import plot_accuracy

        return plot_accuracy(self, ax=ax)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to ``path`` (safetensors), whole or not at all."""
        arrays = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        if self.weights is not None:
            arrays |= {"weights": self.weights.values, "predicted_gain": np.asarray(self.weights.predicted_gain)}
        fields = {name: getattr(self, name) for name in _FIELDS}
        trials = [[trial.name, trial.epochs, trial.macro, trial.worst] for trial in self.trials]
        about = {} if self.weights is None else dict(self.weights.metadata)
        metadata = {**fields, "category_names": list(self.category_names), "trials": trials, "weights": about}
        return save_artifact(path, "result", arrays, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ParetoResult":
        """Read a result written by :meth:`save`.

        Raises:
            ArtifactError: if the file is not a whole result.
        """
        arrays, metadata = load_artifact(path, "result")
        with consistent_parts(path):
            names = tuple(map(str, metadata["category_names"]))
            weights = None
            if "weights" in arrays:
                weights = SampleWeights(arrays["weights"], arrays["predicted_gain"], names, {**metadata["weights"]})
            fields: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
            fields |= {name: kind(metadata[name]) for name, kind in _FIELDS.items()}
            trials = tuple(TrialSummary(*row) for row in metadata["trials"])
            return cls(category_names=names, weights=weights, trials=trials, **fields)


_ARRAYS = ("before", "after", "support", "p_values", "refused")
_FIELDS: dict[str, type] = {
    "gain": float,
    "gain_error": float,
    "accepted": bool,
    "reason": str,
    "ckpt_path": str,
    "best_epoch": int,
    "epochs_spent": int,
}
