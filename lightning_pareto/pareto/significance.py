"""Does the headroom hold on validation samples that the weights were not fitted to?

Each fold is evaluated with weights fitted to all other folds.

**Standard error.** The F held-out gains are not independent, because each fold helps to fit the weights for the others.
Suppose that a category has nothing to gain. To first order, the weights are then linear in the noise of the folds that
they were fitted to:

    gain_f = Σ_{h≠f} n_h/(n − n_f) ⟨e_f, A e_h⟩

Here e_f is the noise of fold f, with variance proportional to 1/n_f, and A is the response of the weights. Each product
⟨e_f, A e_h⟩ occurs in two gains, those of f and h. Let a_f = n_f/n and b_f = a_f/(1 − a_f). Up to a common factor,

    Cov(a_f gain_f, a_h gain_h) = b_f b_h for f ≠ h,    Var(a_f gain_f) = b_f.

For folds of equal size, the correlation is 1/(F − 1), and the usual squared standard error must be multiplied by
2(F − 1)/(F − 2). For F = 2, both gains are the same number and give no error estimate, so a proof needs three folds.
Any part of the weights that is not from the category's own noise lowers the correlation. The test is then conservative.

**Hypotheses.** A target must gain: H0 is gain ≤ 0. Every other category must hold its floor: H0 is gain ≤ floor −
margin, a non-inferiority test. It needs the margin because a binding floor is met exactly in sample, so no amount of
data would show a held-out gain above it. The margin is the loss that counts as negligible, just as a gain of that size
would. All claims hold together if the least certain one does (intersection-union test). Therefore the level needs no
correction for the number of categories.

**Few samples.** Gains of single samples are skewed: most are small, and a few samples lose a lot. A handful of samples
may contain none of the latter. Its spread is then small, and it would prove anything. So the variance of a category's
mean is taken to be at least σ²/n · min(1, 60/n), where σ² is the average variance over all validation samples. Up to 60
samples, a category's spread thus counts at least as much as the common spread. Beyond 60, this bound fades out. Fewer
than 10 samples of a category, or fewer than 60 in total, prove nothing, because they easily miss a loss that hits one
sample in twenty.

The table shows the share of false proofs at level 0.05. There are ten categories with gains of mean zero, one of them
small and the others with 60 samples each. Each cell has three numbers: the t-test alone, this treatment, and this
treatment if the other categories have half the spread.

    samples of the category             10              15              30              60
    normal                        .01 .00 .01     .01 .00 .01     .01 .00 .01     .01 .00 .01
    skewness −2 (exponential)     .06 .00 .04     .04 .00 .03     .04 .00 .03     .03 .00 .02
    skewness −6 (lognormal)       .12 .00 .03     .09 .00 .03     .07 .00 .04     .05 .00 .04
    one in twenty loses much      .60 .00 .00     .47 .00 .00     .22 .00 .05     .05 .00 .05

With only two categories, the large one with half the spread, the last line has .10 at 30 samples. No test sees a loss
that is not in the sample.

**Size at a floor.** The test's size at the boundary of a floor is at most 0.02 at level 0.05. This was measured on
simulated folds in which what helps the target harms another category (floors of −0.05, 0 and 0.05; three and eight
folds; 15 and 44 samples).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from lightning_pareto.influence.gains import predicted_gain
from lightning_pareto.pareto.admissible import AdmissibleSet, Float
from lightning_pareto.pareto.demand import Demand
from lightning_pareto.pareto.headroom import headroom
from lightning_pareto.pareto.sifting import FloorsError

LEAST_FOLDS = 3
"""Folds with samples of a category that are needed to prove anything about it."""

LEAST_SAMPLES = 10
"""Validation samples of a category that are needed to prove anything about it."""

ENOUGH_SAMPLES = 60
"""Validation samples of all categories that are needed to prove anything. A category with fewer than this many also
gets the full common spread as a lower bound."""


@dataclass(frozen=True, eq=False)
class HeldOutGain:
    """Cross-fitted gains, and the test of H0 "some category does not meet its demand".

    Attributes:
        by_fold: relative gain on each fold, with weights fitted to the other folds, (F, K). NaN if a fold has no
            samples of a category.
        mean: relative gain of each category, averaged over its samples, (K,).
        standard_error: standard error of the mean, (K,). It accounts for the correlation of the folds and the spread of
            the other categories. Infinite if a category is in fewer than three folds.
        p_values: one-sided p-value of each category, (K,). 1 if nothing can be proven.
        degrees_of_freedom: degrees of freedom of the standard error, (K,), at least 1.
    """

    by_fold: Float
    mean: Float
    standard_error: Float
    p_values: Float
    degrees_of_freedom: Float

    @property
    def p_value(self) -> float:
        """Intersection-union test: the largest p-value, since all claims hold only if the least certain one does."""
        return float(self.p_values.max())


def cross_fit(
    fold_scores: np.ndarray,
    fold_support: np.ndarray,
    scale: Float,
    admissible: AdmissibleSet,
    *,
    demand: Demand | None = None,
    margin: float = 0.0,
    start: Float | None = None,
) -> HeldOutGain:
    """For each fold, fit weights to all other folds and evaluate them on this fold.

    If the other folds cannot hold all floors, the weights that come closest are evaluated.

    Args:
        fold_scores: influence of each fold, (F, N, K). Values do not matter where a fold has no samples of a category.
        fold_support: number of validation samples behind them, (F, K).
        scale: s_k, (K,).
        admissible: the allowed weights.
        demand: the targets and the floors of the others. By default every category is a target.
        margin: relative loss below a floor that counts as negligible.
        start: initial prices, see :func:`lightning_pareto.pareto.headroom.headroom`.

    Returns:
        The held-out gains in units of s_k. The p-values are from a t distribution with one degree of freedom fewer than
        the category has folds.

    Raises:
        LinearProgramError: if the solver fails.
    """
    demand = Demand.of_all(fold_support.shape[1]) if demand is None else demand
    total = np.zeros(fold_scores.shape[1:])
    for scores, support in zip(fold_scores, fold_support, strict=True):
        total += _sums(scores, support)
    gains = np.full(fold_support.shape, np.nan)
    for fold, (scores, support) in enumerate(zip(fold_scores, fold_support, strict=True)):
        others = (total - _sums(scores, support)) / np.maximum(fold_support.sum(axis=0) - support, 1)
        try:
            weights = headroom(others, scale, admissible, demand, start).weights
        except FloorsError as error:
            weights = admissible.weights(error.nearest)
        gains[fold] = np.where(support > 0, predicted_gain(scores, weights, admissible.present) / scale, np.nan)
    return _test(gains, fold_support, demand.bar(margin))


def _sums(scores: np.ndarray, support: np.ndarray) -> Float:
    """Sums over a fold's samples, by category, (N, K), in float64."""
    sums: Float = np.where(support > 0, scores, 0) * support.astype(np.float64)
    return sums


def _test(gains: Float, support: np.ndarray, bar: Float) -> HeldOutGain:
    """Test H0 "the gain of some category is at most its entry in ``bar``"."""
    samples, folds = support.sum(axis=0), (support > 0).sum(axis=0)
    mean, variance = _mean_and_variance(gains, support)
    error = np.sqrt(_with_common_spread(variance, samples))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.nan_to_num((mean - bar) / error, nan=0.0)  # 0/0 if nothing moves
    degrees = np.maximum(folds - 1, 1).astype(np.float64)
    enough = np.isfinite(error) & (samples >= LEAST_SAMPLES) & (samples.sum() >= ENOUGH_SAMPLES)
    p_values = np.where(enough, stats.t.sf(statistic, degrees), 1.0)
    return HeldOutGain(gains, mean, error, p_values, degrees)


def _mean_and_variance(gains: Float, support: np.ndarray) -> tuple[Float, Float]:
    """Mean gain of each category and its variance, (K,) each. The variance is infinite with fewer than three folds."""
    share = support / np.maximum(support.sum(axis=0), 1)
    enough = (support > 0).sum(axis=0) >= LEAST_FOLDS
    mean = np.nansum(share * gains, axis=0)
    squares = np.nansum((share * (gains - mean)) ** 2, axis=0)
    return mean, np.where(enough, squares * _variance_ratio(np.where(enough, share, 0)), np.inf)


def _with_common_spread(variance: Float, samples: np.ndarray) -> Float:
    """Variances of the means, (K,), with the common spread of all categories as a lower bound.

    Args:
        variance: variance of each category's mean from its own folds, (K,). The common spread ignores infinite ones.
        samples: number of samples of each category, (K,).
    """
    known = np.isfinite(variance)
    common = (samples[known] ** 2.0 * variance[known]).sum() / max(samples[known].sum(), 1)
    size = np.maximum(samples, 1)
    found: Float = np.maximum(variance, common / size * np.minimum(1.0, ENOUGH_SAMPLES / size))
    return found


def _variance_ratio(share: Float) -> Float:
    """Variance of the mean gain divided by the expected sum of its weighted squared deviations, (K,).

    For F folds of equal size it is 2F/(F − 2).

    Args:
        share: a_f < 1 of each category, (F, K). All 0 for a category with too few folds.
    """
    odds = share / (1 - share)
    rows = odds * (1 + odds.sum(axis=0) - odds)  # Cov(a_f gain_f, mean)
    variance = rows.sum(axis=0)
    expected = (odds - 2 * share * rows + share**2 * variance).sum(axis=0)
    ratio: Float = np.divide(variance, expected, out=np.ones_like(variance), where=variance > 0)
    return ratio
