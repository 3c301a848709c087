"""Influence averaged over several models: checkpoints of one fit, or several fits."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lightning_pareto.influence.matrix import InfluenceMatrix, check_type

_SHARED = {
    "labels": "training labels",
    "category_names": "category names",
    "support": "validation support",
    "fold_support": "folds",
    "present_weights": "weights of the fit",
}
"""What all averaged matrices must share, and its name in errors."""


def average_influence(matrices: Sequence[InfluenceMatrix]) -> InfluenceMatrix:
    """Average influence matrices of several models on the same data.

    The influence of one model is noisy, especially once the model has fitted wrong labels. The average finds wrong
    labels better. All matrices count equally: each column is divided by its mean absolute value before averaging. The
    result is rescaled to the mean of those values, so that predicted gains roughly keep their unit.

    Args:
        matrices: at least one, all with the same training labels, categories and folds.

    Returns:
        The average. Its metadata is taken from the first matrix, with the checkpoints and model fingerprints of all.

    Raises:
        TypeError: for anything but influence matrices.
        ValueError: if the list is empty or the matrices belong to different data.

    Example:
        >>> one = InfluenceMatrix([[2.0], [-2.0]], [0, 0])
        >>> other = InfluenceMatrix([[3.0], [1.0]], [0, 0])
        >>> average_influence([one, other]).scores
        array([[ 2.5],
               [-0.5]], dtype=float32)
    """
    if isinstance(matrices, InfluenceMatrix):
        raise TypeError("average_influence takes a list of matrices: average_influence([first, second])")
    if not matrices:
        raise ValueError("expected at least one influence matrix to average")
    first = matrices[0]
    for number, matrix in enumerate(matrices):
        check_type(matrix)
        for attribute, name in _SHARED.items():
            expected, found = (np.asarray(getattr(each, attribute)) for each in (first, matrix))
            if not np.array_equal(expected, found):
                raise ValueError(
                    f"matrix {number} has other {name} than the first. All matrices must come from the same training "
                    "and validation data, with the same categories, folds and seed"
                )
    unit = np.mean([np.where(matrix.scores.any(axis=0), matrix.scale, 0) for matrix in matrices], axis=0)
    factors = [np.nan_to_num(unit / matrix.scale) for matrix in matrices]
    folds = [matrix.fold_scores for matrix in matrices if matrix.fold_scores is not None]
    read = [matrix.probabilities for matrix in matrices if matrix.probabilities is not None]
    metadata = dict(first.metadata)
    if len(matrices) > 1:
        metadata["checkpoint"] = [matrix.metadata.get("checkpoint") for matrix in matrices]
        models = [matrix.metadata.get("fingerprints", {}).get("model") for matrix in matrices]
        metadata["fingerprints"] = {**first.metadata.get("fingerprints", {}), "model": models}
    return replace(
        first,
        scores=_mean([matrix.scores for matrix in matrices], factors),
        fold_scores=_mean(folds, factors) if folds else None,
        predicted=np.mean(read, axis=0).argmax(axis=1) if read else first.predicted,
        probabilities=np.mean(read, axis=0) if read else None,
        metadata=metadata,
    )


def _mean(arrays: list[npt.NDArray[np.float32]], factors: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float32]:
    """Mean of arrays, (…, K), after multiplying each by its factors, (K,)."""
    total = np.zeros_like(arrays[0], dtype=np.float32)
    for array, factor in zip(arrays, factors, strict=True):
        total += array * (factor / len(arrays)).astype(np.float32)
    return total
