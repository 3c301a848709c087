"""Does the headroom hold on validation samples that the weights were not fitted to?

Every fold is evaluated with weights that were fitted to all the other folds, so the F held-out gains are not
independent. Where a category has nothing to gain, the weights are, to first order, linear in the noise of the folds
that they were fitted to, and

    gain_f = Σ_{h≠f} n_h/(n − n_f) ⟨e_f, A e_h⟩,

with e_f the noise of fold f, of variance proportional to 1/n_f, and A the response of the weights. Each product
⟨e_f, A e_h⟩ occurs in two gains, those of f and of h. With a_f = n_f/n, b_f = a_f/(1 − a_f) this gives, up to a common
factor,

    Cov(a_f gain_f, a_h gain_h) = b_f b_h for f ≠ h,    Var(a_f gain_f) = b_f.

For folds of one size the correlation is 1/(F − 1), and the usual squared standard error is to be multiplied by
2(F − 1)/(F − 2). For F = 2 the two gains are one number, and no error can be had from them: a proof takes three folds.
Any part of the weights that does not come from the category's own noise lowers the correlation and makes the test
conservative.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from lightning_pareto.pareto.admissible import AdmissibleSet, Float, predicted_gain
from lightning_pareto.pareto.headroom import headroom

LEAST_FOLDS = 3
"""Folds that a category must be in for anything to be proven about it."""


@dataclass(frozen=True, eq=False)
class HeldOutGain:
    """Cross-fitted gains and the test of H0 "some category does not gain".

    Attributes:
        by_fold: relative gain on each fold of the weights fitted to the other folds, (F, K); NaN where a fold has no
            sample of a category.
        mean: relative gain of every category, each fold weighted by its samples, (K,).
        standard_error: of the mean, with the correlation of the folds, (K,); infinite where a category is in fewer than
            three folds.
        p_values: one-sided p-value of every category, (K,); 1 where the standard error is infinite.
        degrees_of_freedom: of the standard error, (K,); at least 1.
    """

    by_fold: Float
    mean: Float
    standard_error: Float
    p_values: Float
    degrees_of_freedom: Float

    @property
    def p_value(self) -> float:
        """Intersection-union test: all categories gain only if the least certain of them does."""
        return float(self.p_values.max())


def cross_fit(
    fold_scores: np.ndarray, fold_support: np.ndarray, scale: Float, admissible: AdmissibleSet
) -> HeldOutGain:
    """Fit weights to all folds but one and evaluate them on that one, for every fold.

    Args:
        fold_scores: (F, N, K); any values where a fold has no sample of a category.
        fold_support: (F, K) validation samples behind them.
        scale: s_k, (K,).
        admissible: the weights allowed.

    Returns:
        The held-out gains in units of s_k. The p-values are those of a t distribution of one degree of freedom less
        than the folds that the category is in.

    Raises:
        LinearProgramError: if the solver fails.
    """
    total = np.zeros(fold_scores.shape[1:])
    for scores, support in zip(fold_scores, fold_support, strict=True):
        total += _sums(scores, support)
    gains = np.full(fold_support.shape, np.nan)
    for fold, (scores, support) in enumerate(zip(fold_scores, fold_support, strict=True)):
        others = (total - _sums(scores, support)) / np.maximum(fold_support.sum(axis=0) - support, 1)
        weights = headroom(others, scale, admissible).weights
        gains[fold] = np.where(support > 0, predicted_gain(scores, weights) / scale, np.nan)
    return _test(gains, fold_support)


def _sums(scores: np.ndarray, support: np.ndarray) -> Float:
    """Sums over a fold's samples of each category, (N, K), in float64."""
    sums: Float = np.where(support > 0, scores, 0) * support.astype(np.float64)
    return sums


def _test(gains: Float, support: np.ndarray) -> HeldOutGain:
    share = support / np.maximum(support.sum(axis=0), 1)
    folds = (support > 0).sum(axis=0)
    enough = folds >= LEAST_FOLDS
    mean = np.nansum(share * gains, axis=0)
    squares = np.nansum((share * (gains - mean)) ** 2, axis=0)
    error = np.sqrt(np.where(enough, squares * _variance_of_mean(np.where(enough, share, 0)), np.inf))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.nan_to_num(mean / error, nan=0.0)  # 0/0 where nothing moves
    degrees = np.maximum(folds - 1, 1).astype(np.float64)
    p_values = np.where(enough, stats.t.sf(statistic, degrees), 1.0)
    return HeldOutGain(gains, mean, error, p_values, degrees)


def _variance_of_mean(share: Float) -> Float:
    """Variance of the mean of the gains over the expected sum of their weighted squared deviations, (K,).

    2F/(F − 2) for F folds of one size.

    Args:
        share: a_f of each category, (F, K), < 1; 0 throughout where there are too few folds.
    """
    odds = share / (1 - share)
    rows = odds * (1 + odds.sum(axis=0) - odds)  # Cov(a_f gain_f, mean)
    variance = rows.sum(axis=0)
    expected = (odds - 2 * share * rows + share**2 * variance).sum(axis=0)
    ratio: Float = np.divide(variance, expected, out=np.ones_like(variance), where=variance > 0)
    return ratio
