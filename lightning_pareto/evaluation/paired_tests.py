"""Tests of whether two models differ on the same validation samples."""

import numpy as np
import numpy.typing as npt
from scipy import stats

Float = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer]

COVERAGE = 0.95
"""Coverage of the intervals of a change."""


def sign_test(for_it: Counts, against_it: Counts) -> Float:
    """One-sided exact p-value of H0 "each sample on which the models differ is a fair coin" (McNemar's test).

    Args:
        for_it: samples that speak against H0, any shape.
        against_it: samples on which the models differ the other way.
    """
    p_values: Float = stats.binom.sf(for_it - 1, for_it + against_it, 0.5)
    return p_values


def margin_test(lost: Counts, won: Counts, support: Counts, margin: Float | float) -> Float:
    """One-sided p-value of H0 "the accuracy falls by at most ``margin``". 1 without samples.

    It is the exact chance that samples lost exceed samples won by as many as observed. The shares of both are unknown:
    they are the most likely ones that differ by ``margin``. For 20 to 1,000 samples, margins of 0.5 to 20 points and
    levels of 0.025 to 0.0003, it is never wrong more often than its level says. A margin of 0 takes :func:`sign_test`.

    Args:
        lost: samples that only the first model has right, any shape.
        won: samples that only the second model has right.
        support: all samples.
        margin: a difference of accuracies, in [0, 1).

    Source: the most likely shares are those of T. Tango, Statistics in Medicine 17:891-908 (1998). The p-value is the
    estimated one of C. J. Lloyd, Biometrics 64:716-723 (2008).
    """
    p_values: Float = np.vectorize(_chance_to_exceed, otypes=[np.float64])(lost, won, support, margin)
    return p_values


def _chance_to_exceed(lost: int, won: int, support: int, margin: float) -> float:
    """Chance that lost minus won samples are at least as many as observed, if the accuracy falls by ``margin``."""
    if not support:
        return 1.0
    share_lost = float(_share_lost(lost, won, support, np.asarray(-margin)))
    share_won = max(share_lost - margin, 0.0)
    others = np.arange(support + 1)  # how many may be won
    of_rest = min(share_lost / (1 - share_won), 1.0)
    exceeding = stats.binom.sf(lost - won + others - 1, support - others, of_rest)
    return float(stats.binom.pmf(others, support, share_won) @ exceeding)


def score_interval(lost: Counts, won: Counts, support: Counts, coverage: float = COVERAGE) -> Float:
    """Interval of the change of the accuracy, (2, …): the changes that Tango's score test does not reject.

    NaN without samples. Source: T. Tango, Statistics in Medicine 17:891-908 (1998).
    """
    ends = []
    for quantile in stats.norm.isf((1 - coverage) / 2) * np.array([1, -1]):
        low, high = np.full(np.shape(lost), -1.0), np.full(np.shape(lost), 1.0)
        for _ in range(40):  # bisection: the score falls as the change grows
            middle = (low + high) / 2
            above = _score(lost, won, support, middle) > quantile
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        ends.append(np.where(np.asarray(support) > 0, (low + high) / 2, np.nan))
    return np.stack(ends)


def _score(lost: Counts, won: Counts, support: Counts, change: Float) -> Float:
    """Tango's statistic: how far the observed change lies above ``change``, in standard errors under ``change``."""
    n = np.maximum(support, 1)
    share = _share_lost(lost, won, n, change)
    variance = np.maximum(n * (2 * share + change * (1 - change)), 0)
    difference = won - lost - n * change
    with np.errstate(divide="ignore", invalid="ignore"):
        score: Float = np.where(difference == 0, 0.0, difference / np.sqrt(variance))
    return score


def _share_lost(lost: Counts | int, won: Counts | int, n: Counts | int, change: Float) -> Float:
    """The most likely share of samples lost, if the share won exceeds it by ``change``."""
    linear = (2 * n - won + lost) * change - lost - won
    constant = -lost * change * (1 - change)
    share: Float = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0)) - linear) / (4 * n)
    return share


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
