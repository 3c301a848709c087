"""The result of a search for a better second fit."""

import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.columns import Column, Columns, chosen_cells
from lightning_pareto.display.notebook import data_frame, html_table
from lightning_pareto.display.terminal import printable, printable_line, text_table, wrapped
from lightning_pareto.evaluation.change import ClasswiseChange
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.storage.artifacts import consistent_parts, load_artifact, save_artifact


@dataclass(frozen=True)
class TrialSummary:
    """One trial of a search.

    Attributes:
        name: what was tried.
        epochs: epochs trained in it.
        macro: mean validation accuracy over the categories; NaN where all validation data were trained on.
        worst: lowest validation accuracy of a category; NaN likewise.
    """

    name: str
    epochs: int
    macro: float
    worst: float


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one kind of remedy achieved, on validation samples that it does not know, against the best ordinary model.

    Attributes:
        name: what was tried.
        change: change of each category's accuracy, (K,); NaN without samples.
        low: lower end of its 95 % interval, (K,).
        high: upper end, (K,).
        harmed: which categories fall beyond chance, (K,).
        mean: change of the mean accuracy over the categories.
        mean_error: its standard error.
        worst: change of the lowest accuracy.
        returned: whether a model of this kind was returned.
    """

    name: str
    change: Float
    low: Float
    high: Float
    harmed: npt.NDArray[np.bool_]
    mean: float
    mean_error: float
    worst: float
    returned: bool = False

    @classmethod
    def of(cls, name: str, change: ClasswiseChange, harmed: npt.NDArray[np.bool_]) -> "Attempt":
        """What a change amounts to."""
        low, high = change.interval
        return cls(name, change.accuracy, low, high, harmed, change.macro, change.macro_error, change.worst)


@dataclass(frozen=True, eq=False, repr=False)
class ParetoResult:
    """What :class:`ParetoTuner` returns.

    Models are measured on validation samples that their weights have not seen. Where weights were made from both halves
    of the validation set, ``after`` pools both models, each on the other half, and the better one of them is returned.
    Its own accuracy is therefore a little less certain. Measure it on data that no decision has seen.

    Attributes:
        category_names: names of the K categories.
        before: validation accuracy of the first model in each category, (K,).
        after: validation accuracy of the returned model in each category, (K,).
        support: validation samples of each category behind these accuracies, (K,).
        p_values: one-sided exact p-value of H0 "this category does not fall" from before to after, (K,).
        refused: if no other model was accepted, accuracy that the best of them would have had, (K,): ``after``
            plus its change on the samples that its weights have not seen. NaN if there was none.
        gain: change of the mean accuracy from the best ordinary model to the best reweighted one, or to the fits with
            validation data but without weights if one of those is returned.
        gain_error: standard error of the gain for the sampling of validation data.
        accepted: whether a model made by a candidate or with weights is better than every ordinary one beyond
            chance, and worse on no category beyond chance. Otherwise the best ordinary model is returned.
        reason: why it was accepted, or why not.
        weights: sample weights that the returned model was fitted with; None if it was fitted without.
        ckpt_path: checkpoint of the returned model.
        best_epoch: number of epochs trained when validation chose it.
        epochs_spent: epochs trained in all trials.
        trials: all trials, in order.
        ordinary: validation accuracy of the best ordinary model in each category, (K,), on all validation samples.
        attempts: what was tried in order to beat it.
    """

    category_names: tuple[str, ...]
    before: Float
    after: Float
    support: np.ndarray
    p_values: Float
    refused: Float
    gain: float
    gain_error: float
    accepted: bool
    reason: str
    weights: SampleWeights | None
    ckpt_path: str
    best_epoch: int
    epochs_spent: int
    trials: tuple[TrialSummary, ...]
    ordinary: Float
    attempts: tuple[Attempt, ...] = ()

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            if np.shape(getattr(self, name)) != (len(self.category_names),):
                raise ValueError(f"{name} must have {len(self.category_names)} values, one for each category")

    def __repr__(self) -> str:
        return (
            f"ParetoResult(accepted={self.accepted}, mean {np.nanmean(self.before):.1%} to "
            f"{np.nanmean(self.after):.1%}, {self.epochs_spent} epochs spent)"
        )

    @property
    def headline(self) -> str:
        """Whether a better model was accepted."""
        return f"Better model {'accepted' if self.accepted else 'not accepted'}"

    @property
    def shown_columns(self) -> list[str]:
        """Names of the columns that have something to show."""
        return [name for name in COLUMNS if not np.isnan(COLUMNS[name].values(self)).all()]

    def __str__(self) -> str:
        shown = self.shown_columns
        order = np.argsort(self.before)
        longest = 20 if "refused" in shown else 30
        columns = {"category": [*(printable(self.category_names[k], longest) for k in order), "mean"]}
        for name in shown:
            cells, column = COLUMNS[name].cells(self), COLUMNS[name]
            mean = column.form.format(np.nanmean(column.values(self))) if name in _AVERAGED else ""
            columns[column.heading] = [*(cells[k] for k in order), mean]
        notes = [
            "Accuracy in % on validation samples that the weights have not seen. These samples chose the model: "
            "measure it on others. Each p is for one category alone. A fall counts as beyond chance if it is so for "
            "all categories together (Holm).",
            *([COLUMNS["refused"].meaning] if "refused" in shown else []),
            f"{self.epochs_spent} epochs spent in {len(self.trials)} trials.",
        ]
        tried = [*text_table(self.attempt_cells(24)), ""] if self.attempts else []
        head = [f"{self.headline}:", *map(printable_line, wrapped(self.reason))]
        model = f"Model: {printable_line(self.ckpt_path)}"
        return "\n".join([*head, "", *text_table(columns), "", *tried, *wrapped(*notes), model])

    def attempt_cells(self, longest: int = 60) -> dict[str, list[str]]:
        """Cells of a table of the attempts, by heading, with changes in points."""
        tried = self.attempts
        return {
            "tried": [printable(one.name, longest) + " (returned)" * one.returned for one in tried],
            "mean": [f"{100 * one.mean:+.1f} ± {100 * one.mean_error:.1f}" for one in tried],
            "lowest": [f"{100 * one.worst:+.1f}" for one in tried],
            "classes harmed": [str(int(one.harmed.sum())) for one in tried],
        }

    @property
    def reached(self) -> tuple[Float, Float]:
        """Lowest and highest accuracy of each category, (K,) each, that any attempt without harm has reached.

        The ordinary model counts as one. The highest of several is too optimistic: each has an error of its own.
        """
        changes = [np.zeros_like(self.ordinary), *(one.change for one in self.attempts if not one.harmed.any())]
        return self.ordinary + np.nanmin(changes, axis=0), self.ordinary + np.nanmax(changes, axis=0)

    def _repr_html_(self) -> str:
        columns = {"category": self.category_names, **chosen_cells(COLUMNS, self.shown_columns, self)}
        return html_table(self.headline, columns, [self.reason, f"Model: {self.ckpt_path}"])

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` by category, with accuracies in [0, 1]. An ImportError says how to install pandas."""
        columns = {name: getattr(self, name) for name in _ARRAYS if not np.isnan(getattr(self, name)).all()}
        return data_frame(columns | {"change": self.after - self.before}, self.category_names, "category")

    def plot(self, ax: Any = None) -> Any:
        """Draw the accuracy of each category before and after, see :func:`lightning_pareto.plot_accuracy`."""
        from lightning_pareto.report.figures import plot_accuracy

        return plot_accuracy(self, ax=ax)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to ``path`` (safetensors), whole or not at all."""
        arrays = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        for name in _OF_ATTEMPTS if self.attempts else ():
            arrays[f"attempts {name}"] = np.stack([np.asarray(getattr(one, name), np.float64) for one in self.attempts])
        if self.weights is not None:
            arrays |= {"weights": self.weights.values, "predicted_gain": np.asarray(self.weights.predicted_gain)}
        fields = {name: getattr(self, name) for name in _FIELDS}
        fields |= {"category_names": self.category_names, "trials": list(map(astuple, self.trials))}
        fields["attempts"] = [(one.name, one.mean, one.mean_error, one.worst, one.returned) for one in self.attempts]
        about = {} if self.weights is None else dict(self.weights.metadata)
        return save_artifact(path, "result", arrays, {**fields, "weights": about})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ParetoResult":
        """Read a result written by :meth:`save`. Any other file raises an :class:`ArtifactError`."""
        arrays, metadata = load_artifact(path, "result")
        with consistent_parts(path):
            names = tuple(map(str, metadata["category_names"]))
            weights = None
            if "weights" in arrays:
                weights = SampleWeights(arrays["weights"], arrays["predicted_gain"], names, {**metadata["weights"]})
            unknown = {"ordinary": np.full(len(names), np.nan)}  # of results before there were attempts
            fields: dict[str, Any] = {name: {**unknown, **arrays}[name] for name in _ARRAYS}
            fields |= {name: kind(metadata[name]) for name, kind in _FIELDS.items()}
            trials = tuple(TrialSummary(*row) for row in metadata["trials"])
            attempts = []
            for number, (name, *rest) in enumerate(metadata.get("attempts", ())):
                change, low, high, harmed = (arrays[f"attempts {each}"][number] for each in _OF_ATTEMPTS)
                attempts.append(Attempt(name, change, low, high, harmed > 0, *rest))
            return cls(category_names=names, weights=weights, trials=trials, attempts=tuple(attempts), **fields)


_ARRAYS = ("before", "after", "support", "p_values", "refused", "ordinary")
_OF_ATTEMPTS = ("change", "low", "high", "harmed")
_FIELDS: dict[str, type] = {
    "gain": float,
    "gain_error": float,
    "accepted": bool,
    "reason": str,
    "ckpt_path": str,
    "best_epoch": int,
    "epochs_spent": int,
}
_AVERAGED = ("before", "after", "change", "refused")

COLUMNS: Columns[ParetoResult] = {
    "before": Column("before", "{:.1f}", "Accuracy in % of the first model.", lambda r: 100 * r.before),
    "after": Column("after", "{:.1f}", "Accuracy in % of the returned model.", lambda r: 100 * r.after),
    "change": Column("change", "{:+.1f}", "Change in points.", lambda r: 100 * (r.after - r.before)),
    "p_values": Column(
        "p of a fall",
        "{:.2g}",
        "One-sided exact p-value of no fall, for each category alone.",
        lambda r: np.where(np.isnan(r.before), np.nan, r.p_values),
    ),
    "support": Column("samples", "{:.0f}", "Validation samples behind the accuracies.", lambda r: r.support),
    "refused": Column(
        "refused",
        "{:.1f}",
        "Refused: accuracy in % that the best of the other models, which was refused, would have had.",
        lambda r: 100 * r.refused,
    ),
}
"""What a result says about each category, for text, HTML, notebooks and reports."""
