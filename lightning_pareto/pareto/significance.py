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

**What is tested.** A target has to gain: H0 is gain ≤ 0. Every other category has to hold its floor: H0 is
gain ≤ floor − margin, a non-inferiority test. A floor that binds is met exactly in sample, so that no amount of data
would show a held-out gain above it; the margin is the loss that counts as negligible, as a gain of that size would. All
claims hold together if the least certain one does (intersection-union test): its level needs no correction for the
number of categories.

**Few samples.** Gains of single samples are skewed: most say little, a few are lost by a lot. A handful without such a
one has a small spread and would prove anything. So the spread of a category is taken to be at least that of all
categories together, fully so up to 60 samples and less and less beyond (the variance of its mean is at least
σ²/n · min(1, 60/n), with σ² the mean over the validation samples). Fewer than 10 samples of a category, or than 60 in
all, prove nothing: a loss that hits one sample in twenty is then easily missed. The share of false proofs at level 0.05
with gains of mean zero, ten categories, one of them small and the others of 60 samples: by the t-test alone, with this
treatment, and with it where the other categories have half the spread:

    samples of the category             10              15              30              60
    normal                        .01 .00 .01     .01 .00 .01     .01 .00 .01     .01 .00 .01
    skewness −2 (exponential)     .06 .00 .04     .04 .00 .03     .04 .00 .03     .03 .00 .02
    skewness −6 (lognormal)       .12 .00 .03     .09 .00 .03     .07 .00 .04     .05 .00 .04
    one in twenty loses much      .60 .00 .00     .47 .00 .00     .22 .00 .05     .05 .00 .05

With only two categories, the large one of half the spread, the last line has .10 at 30 samples: no test sees a loss
that is not in the sample.

**Floors.** The size at the boundary of a floor, measured on simulated folds where what helps the target harms another
category (floors of −0.05, 0 and 0.05; three and eight folds; 15 and 44 samples): at most 0.02 at level 0.05.
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
"""Folds that a category must be in for anything to be proven about it."""

LEAST_SAMPLES = 10
"""Validation samples of a category below which nothing is proven about it."""

ENOUGH_SAMPLES = 60
"""Validation samples, of all categories, below which nothing is proven; of one, up to which its own spread does not
count alone."""


@dataclass(frozen=True, eq=False)
class HeldOutGain:
    """Cross-fitted gains and the test of H0 "some category does not do what is asked of it".

    Attributes:
        by_fold: relative gain on each fold of the weights fitted to the other folds, (F, K); NaN where a fold has no
            sample of a category.
        mean: relative gain of every category, each fold weighted by its samples, (K,).
        standard_error: of the mean, with the correlation of the folds and the spread of the other categories, (K,);
            infinite where a category is in fewer than three folds.
        p_values: one-sided p-value of every category, (K,); 1 where nothing can be proven.
        degrees_of_freedom: of the standard error, (K,); at least 1.
    """

    by_fold: Float
    mean: Float
    standard_error: Float
    p_values: Float
    degrees_of_freedom: Float

    @property
    def p_value(self) -> float:
        """Intersection-union test: all claims hold only if the least certain of them does."""
        return float(self.p_values.max())


def cross_fit(
    fold_scores: np.ndarray,
    fold_support: np.ndarray,
    scale: Float,
    admissible: AdmissibleSet,
    demand: Demand | None = None,
    margin: float = 0.0,
    start: Float | None = None,
) -> HeldOutGain:
    """Fit weights to all folds but one and evaluate them on that one, for every fold.

    Where the other folds cannot hold the floors together, the weights are those that come nearest.

    Args:
        fold_scores: (F, N, K); any values where a fold has no sample of a category.
        fold_support: (F, K) validation samples behind them.
        scale: s_k, (K,).
        admissible: the weights allowed.
        demand: the targets and the floors of the others; by default every category is a target.
        margin: relative loss below a floor that counts as none.
        start: prices to begin with, see :func:`lightning_pareto.pareto.headroom.headroom`.

    Returns:
        The held-out gains in units of s_k. The p-values are those of a t distribution of one degree of freedom less
        than the folds that the category is in.

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
        gains[fold] = np.where(support > 0, predicted_gain(scores, weights) / scale, np.nan)
    return _test(gains, fold_support, demand.bar(margin))


def _sums(scores: np.ndarray, support: np.ndarray) -> Float:
    """Sums over a fold's samples of each category, (N, K), in float64."""
    sums: Float = np.where(support > 0, scores, 0) * support.astype(np.float64)
    return sums


def _test(gains: Float, support: np.ndarray, bar: Float) -> HeldOutGain:
    """Test H0 "the gain of some category is at most its ``bar``"."""
    samples, folds = support.sum(axis=0), (support > 0).sum(axis=0)
    mean, variance = _mean_and_variance(gains, support)
    error = np.sqrt(_with_common_spread(variance, samples))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.nan_to_num((mean - bar) / error, nan=0.0)  # 0/0 where nothing moves
    degrees = np.maximum(folds - 1, 1).astype(np.float64)
    proves = np.isfinite(error) & (samples >= LEAST_SAMPLES) & (samples.sum() >= ENOUGH_SAMPLES)
    p_values = np.where(proves, stats.t.sf(statistic, degrees), 1.0)
    return HeldOutGain(gains, mean, error, p_values, degrees)


def _mean_and_variance(gains: Float, support: np.ndarray) -> tuple[Float, Float]:
    """Mean gain of every category and its variance, infinite with fewer than three folds, (K,) each."""
    share = support / np.maximum(support.sum(axis=0), 1)
    enough = (support > 0).sum(axis=0) >= LEAST_FOLDS
    mean = np.nansum(share * gains, axis=0)
    squares = np.nansum((share * (gains - mean)) ** 2, axis=0)
    return mean, np.where(enough, squares * _variance_of_mean(np.where(enough, share, 0)), np.inf)


def _with_common_spread(variance: Float, samples: np.ndarray) -> Float:
    """Variances of the means, (K,), none below what the spread of all the categories' samples makes it.

    Args:
        variance: of each category's mean, by its own folds; infinite ones do not count for the common spread.
        samples: of each category, (K,).
    """
    known = np.isfinite(variance)
    common = (samples[known] ** 2.0 * variance[known]).sum() / max(samples[known].sum(), 1)
    size = np.maximum(samples, 1)
    found: Float = np.maximum(variance, common / size * np.minimum(1.0, ENOUGH_SAMPLES / size))
    return found


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
