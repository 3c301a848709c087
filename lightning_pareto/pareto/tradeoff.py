"""What each category could have alone, what it has in the compromise, and at what rate they trade."""

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
        alone: the largest gain that each category can have if the others do not matter, (K,).
        together: its gain under the weights of the headroom, (K,); at least h.
    """

    alone: Float
    together: Float


def compromise(scores: np.ndarray, scale: Float, admissible: AdmissibleSet, solved: Headroom) -> Compromise:
    """Compare the headroom's weights with the best ones for each category alone.

    Alone, the best weights take from the samples of the highest slopes, as many as the budget allows.

    Args:
        scores: (N, K), finite.
        scale: s_k, (K,).
        admissible: the weights allowed.
        solved: the headroom.
    """
    n, k = scores.shape
    slopes = admissible.slopes(scores) / scale
    alone = np.array([upper_bound(slopes, admissible.capacity, unit) / n for unit in np.eye(k)])
    together = predicted_gain(scores, solved.weights) / scale
    return Compromise(alone, together)


def exchange_rates(prices: Float) -> Float:
    """How much relative gain category b loses for a unit more of category a, at the margin, (K, K) as [a, b].

    At the compromise no admissible change raises Σ_k λ_k gain_k, so that a unit of a costs λ_a/λ_b units of b if b
    alone pays for it. Where b has no price it has gain to spare, and the rate is NaN: it pays nothing until that is
    used up.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = prices[:, None] / prices[None, :]
    rates[:, ~(prices > 0)] = np.nan
    np.fill_diagonal(rates, 1.0)
    return rates
