"""Does the headroom hold on validation samples that the weights were not fitted to?"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from lightning_pareto.pareto.admissible import AdmissibleSet, Float, predicted_gain
from lightning_pareto.pareto.headroom import headroom


@dataclass(frozen=True, eq=False)
class HeldOutGain:
    """Cross-fitted gains and the test of H0 "some category does not gain".

    Attributes:
        by_fold: relative gain on each fold of the weights fitted to the other folds, (F, K); NaN where a fold has no
            sample of a category.
        mean: relative gain of every category, (K,).
        standard_error: (K,); infinite where a category is in fewer than two folds.
        p_values: one-sided p-value of every category, (K,).
    """

    by_fold: Float
    mean: Float
    standard_error: Float
    p_values: Float

    @property
    def p_value(self) -> float:
        """Intersection-union test: all categories gain only if the least certain of them does."""
        return float(self.p_values.max())


def cross_fit(
    fold_scores: np.ndarray, fold_support: np.ndarray, scale: Float, admissible: AdmissibleSet
) -> HeldOutGain:
    """Fit weights to all folds but one and evaluate them on that one, for every fold.

    Args:
        fold_scores: (F, N, K).
        fold_support: (F, K) validation samples behind them.
        scale: s_k, (K,).
        admissible: the weights allowed.

    Returns:
        The held-out gains in units of s_k. Their standard error is that of the fold values, each category weighted by
        its samples in the fold, with a t distribution of F − 1 degrees of freedom.
    """
    sums = np.einsum("fnk,fk->nk", fold_scores.astype(np.float64), fold_support)
    gains = np.full(fold_support.shape, np.nan)
    for fold, (scores, support) in enumerate(zip(fold_scores, fold_support, strict=True)):
        others = (sums - scores * support) / np.maximum(fold_support.sum(axis=0) - support, 1)
        weights = headroom(others, scale, admissible).weights
        gains[fold] = np.where(support > 0, predicted_gain(scores, weights) / scale, np.nan)
    return _test(gains, fold_support)


def _test(gains: Float, support: np.ndarray) -> HeldOutGain:
    share = support / support.sum(axis=0)
    folds = (support > 0).sum(axis=0)
    mean = np.nansum(share * gains, axis=0)
    spread = np.nansum((share * (gains - mean)) ** 2, axis=0)
    correction = folds / np.maximum(folds - 1, 1)
    error = np.where(folds > 1, np.sqrt(spread * correction), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(error > 0, mean / error, np.sign(mean) * np.inf)
    p_values = stats.t.sf(np.nan_to_num(statistic, nan=0.0), np.maximum(folds - 1, 1))
    return HeldOutGain(gains, mean, error, p_values)
