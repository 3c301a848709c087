"""Gains of each category alone and in the compromise, and the rates at which categories trade."""

from dataclasses import dataclass

import numpy as np

from lightning_pareto.influence.gains import predicted_gain
from lightning_pareto.pareto.admissible import AdmissibleSet, Float
from lightning_pareto.pareto.headroom import Headroom
from lightning_pareto.pareto.sifting import upper_bound


@dataclass(frozen=True, eq=False)
class Compromise:
    """In-sample relative gains of the categories.

    Attributes:
        alone: largest gain of each category if the others did not matter, (K,).
        together: its gain under the headroom's weights, (K,), at least h.
    """

    alone: Float
    together: Float


def compromise(scores: np.ndarray, scale: Float, admissible: AdmissibleSet, solved: Headroom) -> Compromise:
    """Compare the headroom's weights with the best weights for each category alone.

    The best weights for a single category take from the samples with the highest slopes, up to the budget.

    Args:
        scores: influence P, (N, K), all finite.
        scale: s_k, (K,).
        admissible: the allowed weights.
        solved: solution of the headroom LP.
    """
    n, k = scores.shape
    slopes = admissible.slopes(scores) / scale
    alone = np.array([upper_bound(slopes, admissible.capacity, unit) / n for unit in np.eye(k)])
    together = predicted_gain(scores, solved.weights) / scale
    return Compromise(alone, together)


def exchange_rates(prices: Float) -> Float:
    """Relative gain that category b loses per additional unit of category a, at the margin, (K, K) as [a, b].

    At the compromise no admissible change raises Σ_k λ_k gain_k. So one more unit of a costs λ_a/λ_b units of b, if
    only b pays for it. A category b without a price has gain to spare. It pays nothing until that is used up, and its
    rate is NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = prices[:, None] / prices[None, :]
    rates[:, ~(prices > 0)] = np.nan
    np.fill_diagonal(rates, 1.0)
    return rates
