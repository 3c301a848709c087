"""The influence matrix: the effect of every training sample on every category of the validation set."""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    first order, weights w change the measure of category k by ``−mean_i (w_i − 1) scores[i, k]``.

    It is built by :func:`estimate_influence`, or by hand from another tool's scores. By hand there are no folds, and
    :func:`check_pareto` then can only make in-sample statements.

    Do not trust single values to more than their order of magnitude: influence is a first-order quantity at one model.

    Args:
        scores: (N, K) array or tensor, kept as float32. Row i is dataset index i. A category without validation samples
            is a column of NaN.
        labels: (N,) integer training labels.
        category_names: K names of the categories; numbers by default.
        support: (K,) number of validation samples of each category.
        fold_scores: (F, N, K) the same scores from F disjoint parts of the validation set, for cross-fitting.
        fold_support: (F, K) number of validation samples behind each of them.
        predicted: (N,) the model's own predictions of the training labels.
        metadata: how it was computed, JSON-serialisable.

    Raises:
        ValueError: if shapes disagree, or a value is infinite, or NaN in a column that is not NaN throughout, or if
            labels or supports are not integers.

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
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        scores = _array(self.scores, np.float32)
        if scores.ndim != 2 or 0 in scores.shape:
            raise ValueError(f"scores must be (N, K) with N, K ≥ 1, found shape {scores.shape}")
        n, k = scores.shape
        absent = np.isnan(scores).all(axis=0)
        if not np.isfinite(scores[:, ~absent]).all():
            row, column = np.argwhere(~np.isfinite(scores) & ~absent)[0]
            raise ValueError(f"scores[{row}, {column}] is {scores[row, column]}: every score must be finite")
        names = tuple(map(str, self.category_names if len(self.category_names) else range(k)))
        if len(names) != k or len(set(names)) != k or isinstance(self.category_names, str):
            raise ValueError(f"expected {k} different class names, one per column of the scores, found {names}")
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "category_names", names)
        object.__setattr__(self, "labels", _checked(self.labels, np.int64, (n,), "labels"))
        if self.support is not None:
            object.__setattr__(self, "support", _counted(self.support, (k,), "support"))
        if self.predicted is not None:
            object.__setattr__(self, "predicted", _checked(self.predicted, np.int64, (n,), "predicted"))
        if (self.fold_scores is None) != (self.fold_support is None):
            raise ValueError("fold_scores and fold_support belong together: give both or neither")
        if self.fold_scores is not None:
            folds = len(self.fold_scores)
            object.__setattr__(
                self, "fold_scores", _checked(self.fold_scores, np.float32, (folds, n, k), "fold_scores")
            )
            object.__setattr__(self, "fold_support", _counted(self.fold_support, (folds, k), "fold_support"))
            self._check_folds()

    def _check_folds(self) -> None:
        assert self.fold_scores is not None
        assert self.fold_support is not None
        for fold, (scores, support) in enumerate(zip(self.fold_scores, self.fold_support, strict=True)):
            bad = ~np.isfinite(scores).all(axis=0) & (support > 0)
            if bad.any():
                name = printable(self.category_names[int(np.argmax(bad))])
                raise ValueError(
                    f"fold_scores[{fold}] of category {name} are not finite, though fold_support says that "
                    f"{support[np.argmax(bad)]} validation samples stand behind them"
                )

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
            ImportError: without pandas, with the command that installs it.
        """
        columns = sample_columns(self.labels, self.predicted, self.total(), self.scores, self.category_names)
        return data_frame(columns, range(len(self.labels)), "index")

    def plot(self, class_a: str, class_b: str, ax: Any = None) -> Any:
        """Draw the samples between two categories, see :func:`lightning_pareto.plot_influence`."""
        from lightning_pareto.report.figures import plot_influence

        return plot_influence(self, class_a, class_b, ax)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the label classes; empty if the categories are not the classes."""
        own = self.metadata.get("categories") == "own"
        return () if own or int(self.labels.max()) >= len(self.category_names) else self.category_names

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which categories have validation samples, (K,)."""
        absent: npt.NDArray[np.bool_] = np.asarray(np.isnan(self.scores).all(axis=0))
        return ~absent

    @functools.cached_property
    def scale(self) -> npt.NDArray[np.float64]:
        """Mean absolute influence s_k on each category, (K,): the unit of relative gains.

        1 for a category that no sample influences, NaN for a category without validation samples.
        """
        return column_scale(self.scores)

    def predicted_gain(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """First-order drop of the measure on each category under sample weights, (K,).

        It holds for a small step towards the weights. A whole second fit keeps the order of the categories at best.

        Args:
            weights: one weight for each training sample, (N,); 1 leaves a sample as it is.

        Returns:
            ``mean_i (w_i − 1) scores[i, k]``, positive is better; NaN for a category without validation samples.
        """
        return predicted_gain(self.scores, weights)

    def of_folds(self, folds: Sequence[int]) -> "InfluenceMatrix":
        """The influence on a part of the validation set, without folds of its own.

        Weights made from it know nothing of the other folds, which can then judge a model trained with them.

        Args:
            folds: numbers of the folds in that part.

        Raises:
            ValueError: if there are no folds.
        """
        if self.fold_scores is None or self.fold_support is None:
            raise ValueError("this influence matrix has no folds: estimate_influence(…, folds=8)")
        support = self.fold_support[list(folds)]
        share = support / np.maximum(support.sum(axis=0), 1)  # (F', K)
        parts = [np.where(a > 0, self.fold_scores[f], 0) * a for f, a in zip(folds, share, strict=True)]
        scores: npt.NDArray[np.float32] = np.asarray(np.sum(parts, axis=0, dtype=np.float64), dtype=np.float32)
        scores[:, support.sum(axis=0) == 0] = np.nan
        return InfluenceMatrix(
            scores,
            self.labels,
            self.category_names,
            support=support.sum(axis=0),
            predicted=self.predicted,
            metadata={**self.metadata, "of_folds": list(folds)},
        )

    def asked(self, option: str, default: float) -> float:
        """What the fit's callback was asked for, ``"budget"`` or ``"level"``; the default for any other influence."""
        return float(self.metadata.get(option, default))

    def total(self) -> npt.NDArray[np.float64]:
        """Each sample's influence on the validation set as a whole, (N,). The lowest are suspected wrong labels.

        The mean over the categories, each weighted by its validation samples where they are known: a plain mean would
        let the labels of rare categories look beneficial.
        """
        scores = np.where(self.present, self.scores, 0).astype(np.float64)
        weights = self.present.astype(np.float64) if self.support is None else self.support.astype(np.float64)
        total: npt.NDArray[np.float64] = scores @ weights / max(float(weights.sum()), 1.0)
        return total

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the matrix to ``path`` (safetensors), whole or not at all."""
        arrays: dict[str, np.ndarray] = {"scores": self.scores, "labels": self.labels}
        for name in ("support", "predicted", "fold_scores", "fold_support"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        return save_artifact(
            path, "influence", arrays, {"category_names": list(self.category_names), "metadata": dict(self.metadata)}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "InfluenceMatrix":
        """Read a matrix written by :meth:`save`.

        Raises:
            ArtifactError: if the file is not a whole influence artifact.
        """
        arrays, metadata = load_artifact(path, "influence")
        with consistent_parts(path):
            return cls(**arrays, category_names=tuple(metadata["category_names"]), metadata={**metadata["metadata"]})


def sample_columns(
    given: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64] | None,
    total: npt.NDArray[np.float64],
    scores: npt.NDArray[np.floating],
    category_names: Sequence[str],
) -> dict[str, npt.NDArray[Any]]:
    """Columns of a table of training samples by name; a category called like another column gets a prefix."""
    columns: dict[str, npt.NDArray[Any]] = {"given": given}
    if predicted is not None:
        columns["predicted"] = predicted
    columns["total"] = total
    for k, name in enumerate(category_names):
        taken = name in ("index", "given", "given_name", "predicted", "total", "weight")
        columns[f"influence on {name}" if taken else name] = scores[:, k]
    return columns


def check_type(influence: Any) -> None:
    """Raise a TypeError with its remedy for anything but an influence matrix."""
    if not isinstance(influence, InfluenceMatrix):
        raise TypeError(
            f"expected an InfluenceMatrix, found {type(influence).__name__}: pass callback.influence, the result of "
            "estimate_influence(…), InfluenceMatrix.load(path) or InfluenceMatrix(scores, labels)"
        )


def _array(values: Any, dtype: npt.DTypeLike) -> np.ndarray:
    array = _numpy(values)
    if np.iscomplexobj(array) or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise ValueError(f"scores must be real numbers, (N, K), found {array.dtype}")
    with np.errstate(over="ignore"):  # what becomes infinite is told by its place
        return array.astype(dtype, copy=False)


def _counted(values: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    counts = _checked(values, np.int64, shape, name)
    if (counts < 0).any():
        raise ValueError(f"{name} counts validation samples and cannot be negative, found {counts.min()}")
    return counts


def _numpy(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"expected an array of numbers: {error}") from error


def _checked(values: Any, dtype: npt.DTypeLike, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = _numpy(values)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, found {array.shape}")
    if np.issubdtype(dtype, np.integer) and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers, found {array.dtype}: np.asarray({name}).astype(int) if they are whole"
        )
    return array.astype(dtype, copy=False)
