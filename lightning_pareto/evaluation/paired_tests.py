"""Tests of whether two models differ on the same validation samples."""

import numpy as np
import numpy.typing as npt
from scipy import stats

Float = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer]


def sign_test(for_it: Counts, against_it: Counts) -> Float:
    """One-sided exact p-value of H0 "each sample on which the models differ is a fair coin" (McNemar's test).

    Args:
        for_it: samples that speak against H0, any shape.
        against_it: samples on which the models differ the other way.
    """
    p_values: Float = stats.binom.sf(for_it - 1, for_it + against_it, 0.5)
    return p_values


def unpaired_test(hits_before: Counts, support_before: Counts, hits_after: Counts, support_after: Counts) -> Float:
    """One-sided p-value of H0 "the accuracy does not fall", from counts alone (Fisher's exact test).

    It serves where two sets of predictions cannot be paired sample by sample. It has less power than
    :func:`sign_test`.
    """
    total, hits = support_before + support_after, hits_before + hits_after
    p_values: Float = stats.hypergeom.cdf(hits_after, total, hits, support_after)
    return p_values


def holm(p_values: Float, level: float) -> npt.NDArray[np.bool_]:
    """Which hypotheses are rejected at a family-wise level (Holm's step-down method), (K,).

    With nothing but chance at work, at most a share ``level`` of such families has any rejection.
    """
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(order), 0, -1)
    result = np.zeros(len(order), dtype=bool)
    result[order] = np.maximum.accumulate(steps) <= level
    return result
