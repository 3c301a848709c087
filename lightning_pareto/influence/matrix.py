"""The influence matrix: the effect of every training sample on every validation category."""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_pareto.display.columns import number
from lightning_pareto.display.notebook import data_frame, html_table
from lightning_pareto.display.terminal import printable
from lightning_pareto.influence.gains import column_scale, predicted_gain
from lightning_pareto.storage.artifacts import consistent_parts, load_artifact, save_artifact


@dataclass(frozen=True, eq=False, repr=False)
class InfluenceMatrix:
    """Influence of N training samples on K categories of the validation set.

    ``scores[i, k] = v_kᵀ (H + λI)⁻¹ ∇ℓ_i``, where v_k is the mean gradient of the validation measure over category k.
    **Positive is beneficial**: raising the weight of sample i lowers the measure (loss or error) on category k. To
    first order, weights w change the measure of category k by ``−mean_i (w_i − u_i) scores[i, k]``, where u are the
    weights that the model was fitted with, all 1 by default.

    Get it from :func:`estimate_influence`, or construct it from another tool's scores. Without ``fold_scores``,
    :func:`check_pareto` can only make in-sample statements.

    Do not trust single values beyond their order of magnitude: influence is a first-order quantity at one model.

    Args:
        scores: (N, K) array or tensor, stored as float32. Row i is dataset index i. A category without validation
            samples is a column of NaN.
        labels: (N,) integer training labels.
        category_names: names of the K categories; numbers by default.
        support: (K,) number of validation samples of each category.
        fold_scores: (F, N, K) the same scores from each of F disjoint parts of the validation set, for cross-fitting.
        fold_support: (F, K) number of validation samples of each category in each fold.
        predicted: (N,) the model's own predictions of the training labels.
        probabilities: (N, C) the model's probabilities of the C classes for each training sample.
        weights: (N,) sample weights that the model was fitted with, scaled to mean 1. None stands for equal weights.
        metadata: how it was computed, JSON-serialisable.

    Raises:
        ValueError: if shapes disagree, a value is infinite, a value is NaN in a column that is not all NaN, or labels
            or supports are not integers.

    Example:
        >>> influence = InfluenceMatrix([[0.5, -0.1], [-0.2, -0.3]], [0, 1], ["cat", "dog"])
        >>> influence.total().round(2)
        array([ 0.2 , -0.25])
    """

    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    category_names: tuple[str, ...] = ()
    support: npt.NDArray[np.int64] | None = None
    fold_scores: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    fold_support: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    predicted: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    probabilities: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    weights: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        scores = _as_scores(self.scores)
        if scores.ndim != 2 or 0 in scores.shape:
            raise ValueError(f"scores must be (N, K) with N, K ≥ 1, found shape {scores.shape}")
        n, k = scores.shape
        absent = np.isnan(scores).all(axis=0)
        if not np.isfinite(scores[:, ~absent]).all():
            row, column = np.argwhere(~np.isfinite(scores) & ~absent)[0]
            raise ValueError(f"scores[{row}, {column}] is {scores[row, column]}: every score must be finite")
        names = tuple(map(str, self.category_names if len(self.category_names) else range(k)))
        if len(names) != k or len(set(names)) != k or isinstance(self.category_names, str):
            raise ValueError(f"expected {k} different category names, one per column of the scores, found {names}")
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "category_names", names)
        if (self.fold_scores is None) != (self.fold_support is None):
            raise ValueError("fold_scores and fold_support belong together: pass both or neither")
        folds = 0 if self.fold_scores is None else len(self.fold_scores)
        if self.weights is not None:
            object.__setattr__(self, "weights", checked_weights(self.weights, n))
        shapes = {"labels": (n,), "predicted": (n,), "support": (k,), "fold_support": (folds, k)}
        if self.probabilities is not None:
            shapes["probabilities"] = (n, max(*np.shape(self.probabilities)[-1:], int(np.max(self.labels)) + 1))
        for name, shape in (shapes | {"fold_scores": (folds, n, k)}).items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _as_array(getattr(self, name), shape, name))
        if self.fold_scores is not None and self.fold_support is not None:
            _check_folds(self.fold_scores, self.fold_support, names)

    def __repr__(self) -> str:
        n, k = self.scores.shape
        folds = "no" if self.fold_scores is None else str(len(self.fold_scores))
        return f"InfluenceMatrix({n} samples × {k} categories, {folds} folds)"

    def _repr_html_(self) -> str:
        share = np.where(self.present, (self.scores > 0).mean(axis=0), np.nan)
        support = np.full(len(self.category_names), np.nan) if self.support is None else self.support
        columns = {
            "category": self.category_names,
            "validation samples": [number(value, "{:.0f}") for value in support],
            "beneficial training samples": [number(value, "{:.0%}") for value in share],
            "mean absolute influence": [number(value, "{:.3g}") for value in self.scale],
        }
        return html_table(repr(self), columns)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` of labels, predictions, totals and scores, indexed by dataset index.

        A category whose name is that of another column gets the prefix "influence on".

        Raises:
            ImportError: if pandas is not installed; names the command that installs it.
        """
        columns = sample_columns(self.labels, self.predicted, self.total(), self.scores, self.category_names)
        return data_frame(columns, range(len(self.labels)), "index")

    def plot(self, class_a: str, class_b: str, ax: Any = None) -> Any:
        """Plot the influence on two categories, see :func:`lightning_pareto.plot_influence`."""
        from lightning_pareto.report.figures import plot_influence

        return plot_influence(self, class_a, class_b, ax)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the label classes; empty if the categories are not the classes."""
        own = self.metadata.get("categories") == "own"
        return () if own or int(self.labels.max()) >= len(self.category_names) else self.category_names

    @property
    def confidence(self) -> npt.NDArray[np.float32] | None:
        """Probability that the model gives to each training label, (N,); None if it is unknown."""
        return None if self.probabilities is None else self.probabilities[np.arange(len(self.labels)), self.labels]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which categories have validation samples, (K,)."""
        return np.asarray(~np.isnan(self.scores).all(axis=0))

    @property
    def present_weights(self) -> npt.NDArray[np.float64]:
        """The weights u that the model was fitted with, (N,); ones if there were none."""
        return np.ones(len(self.labels)) if self.weights is None else self.weights

    @functools.cached_property
    def scale(self) -> npt.NDArray[np.float64]:
        """Mean absolute influence s_k on each category, (K,): the unit of relative gains.

        1 for a category that no sample influences, NaN for a category without validation samples.
        """
        return column_scale(self.scores)

    def predicted_gain(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """First-order drop of the measure on each category under sample weights, (K,).

        It is accurate for a small step towards the weights. A whole second fit keeps far less of it, and little of
        its order.

        Args:
            weights: one weight per training sample, (N,); 1 means no change.

        Returns:
            ``mean_i (w_i − u_i) scores[i, k]``, positive is better; NaN for a category without validation samples.
        """
        return predicted_gain(self.scores, weights, self.present_weights)

    def of_folds(self, folds: Sequence[int]) -> "InfluenceMatrix":
        """The influence on some folds of the validation set, as a matrix without folds.

        Weights computed from it do not depend on the other folds, which can then judge a model trained with them.

        Args:
            folds: numbers of the folds to include.

        Raises:
            ValueError: if there are no folds.
        """
        if self.fold_scores is None or self.fold_support is None:
            raise ValueError("this influence matrix has no folds: estimate_influence(…, folds=8)")
        chosen, support = list(folds), self.fold_support[list(folds)]
        return InfluenceMatrix(
            average_folds(self.fold_scores[chosen], support),
            self.labels,
            self.category_names,
            support=support.sum(axis=0),
            predicted=self.predicted,
            probabilities=self.probabilities,
            weights=self.weights,
            metadata={**self.metadata, "of_folds": chosen},
        )

    def asked(self, option: str, default: float) -> float:
        """What the fit's callback was asked for, ``"budget"`` or ``"level"``; the default for any other influence."""
        return float(self.metadata.get(option, default))

    def total(self) -> npt.NDArray[np.float64]:
        """Each sample's influence on the whole validation set, (N,). The lowest values suggest wrong labels.

        This is the mean over the categories, weighted by their numbers of validation samples if known. In a plain mean,
        samples labelled as a rare category would look too beneficial.
        """
        scores = np.where(self.present, self.scores, 0).astype(np.float64)
        weights = (self.present if self.support is None else self.support).astype(np.float64)
        return np.asarray(scores @ weights / max(float(weights.sum()), 1.0))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the matrix to ``path`` (safetensors), atomically."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
        described = {"category_names": list(self.category_names), "metadata": dict(self.metadata)}
        return save_artifact(path, "influence", arrays, described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "InfluenceMatrix":
        """Read a matrix written by :meth:`save`.

        Raises:
            ArtifactError: if the file is not an intact influence artifact.
        """
        arrays, metadata = load_artifact(path, "influence")
        with consistent_parts(path):
            return cls(**arrays, category_names=tuple(metadata["category_names"]), metadata={**metadata["metadata"]})


def checked_weights(weights: npt.ArrayLike, count: int) -> npt.NDArray[np.float64]:
    """Weights of the training samples as float64 with mean 1, (N,).

    Raises:
        ValueError: unless there is one for each sample, all of them finite and ≥ 0, and not all zero.
    """
    found = np.asarray(weights, dtype=np.float64)
    if found.shape != (count,):
        raise ValueError(f"weights must have shape {(count,)}, one per training sample, found {found.shape}")
    if not np.isfinite(found).all() or (found < 0).any() or not found.any():
        raise ValueError("weights must be finite and ≥ 0, and not all zero")
    factor = count / found.sum()
    return found if abs(factor - 1) < 1e-12 else np.asarray(found * factor)  # the same numbers when read from disk


def average_folds(scores: npt.NDArray[np.float32], support: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Average the scores of folds, (F, N, K), weighted by each category's samples in them, (F, K). Returns (N, K)."""
    total = np.zeros(scores.shape[1:])
    for fold, share in zip(scores, support / np.maximum(support.sum(axis=0), 1), strict=True):
        total += np.where(share > 0, fold, 0) * share  # scores without samples may be NaN
    total[:, support.sum(axis=0) == 0] = np.nan
    return total.astype(np.float32)


def sample_columns(
    given: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64] | None,
    total: npt.NDArray[np.float64],
    scores: npt.NDArray[np.floating],
    category_names: Sequence[str],
    more: Mapping[str, npt.NDArray[Any] | None] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Columns of a table of training samples by name; a category called like another column gets a prefix."""
    columns: dict[str, npt.NDArray[Any]] = {"given": given}
    if predicted is not None:
        columns["predicted"] = predicted
    columns |= {name: values for name, values in (more or {}).items() if values is not None}
    columns["total"] = total
    for k, name in enumerate(category_names):
        taken = name in ("index", "given", "given_name", "predicted", "confidence", "quality", "total", "weight")
        columns[f"influence on {name}" if taken else name] = scores[:, k]
    return columns


def check_type(influence: Any) -> None:
    """Raise a TypeError that says what to pass, for anything but an influence matrix."""
    if not isinstance(influence, InfluenceMatrix):
        raise TypeError(
            f"expected an InfluenceMatrix, found {type(influence).__name__}: pass callback.influence, "
            "estimate_influence(…), InfluenceMatrix.load(path) or InfluenceMatrix(scores, labels)"
        )


def check_generalisation(influence: Any) -> None:
    """Raise an error unless this is an influence matrix, and not one of the training set on itself."""
    check_type(influence)
    if influence.metadata.get("self_influence"):
        raise ValueError(
            "this is the influence of the training set on itself, which says nothing about generalisation: "
            "estimate_influence(module, train_dataloader, val_dataloader) with other samples for validation"
        )


def _check_folds(fold_scores: np.ndarray, fold_support: np.ndarray, names: Sequence[str]) -> None:
    """Check that scores are finite wherever a fold has samples of a category."""
    for fold, (scores, support) in enumerate(zip(fold_scores, fold_support, strict=True)):
        for category in np.flatnonzero(~np.isfinite(scores).all(axis=0) & (support > 0)).tolist():
            raise ValueError(
                f"fold_scores[{fold}] of category {printable(names[category])} must be finite, because fold_support "
                f"says that they come from {support[category]} validation samples"
            )


def _as_scores(values: Any) -> np.ndarray:
    array = _to_numpy(values)
    if np.iscomplexobj(array) or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise ValueError(f"scores must be real numbers, (N, K), found {array.dtype}")
    with np.errstate(over="ignore"):  # values that overflow are reported later, with their position
        return array.astype(np.float32, copy=False)


def _as_array(values: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return scores of folds and probabilities as float32, or labels or numbers of samples as int64."""
    array = _to_numpy(values)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, found {array.shape}")
    if name in ("fold_scores", "probabilities"):
        return array.astype(np.float32, copy=False)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers, found {array.dtype}. If the values are whole: np.asarray({name}).astype(int)"
        )
    if "support" in name and (array < 0).any():
        raise ValueError(f"{name} counts validation samples and cannot be negative, found {array.min()}")
    return array.astype(np.int64, copy=False)


def _to_numpy(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"expected an array of numbers: {error}") from error
