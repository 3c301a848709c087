"""Headroom: how much every category could gain at once, with its dual prices."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pareto.pareto.admissible import AdmissibleSet, Float
from lightning_pareto.pareto.sifting import solve_max_min


@dataclass(frozen=True, eq=False)
class Headroom:
    """Solution of the headroom LP.

    Attributes:
        value: h ≥ 0, the largest relative gain that every category can have at once.
        weights: admissible weights that reach it, (N,).
        prices: trade-off prices λ ≥ 0, Σλ = 1, (K,): where h = 0, no admissible change raises Σ_k λ_k gain_k/s_k.
        budget_price: what a unit more of the budget (a share of the training mass) would add to h.
    """

    value: float
    weights: Float
    prices: Float
    budget_price: float


def headroom(scores: npt.NDArray[np.floating], scale: Float, admissible: AdmissibleSet) -> Headroom:
    """Solve ``max_w min_k gain_k(w) / s_k`` over the admissible weights.

    Written with t' = N·t for coefficients of order one:
    maximise t' subject to Σ_i d_i slope_ik / s_k ≥ t', Σ_i d_i ≤ budget·N, 0 ≤ d ≤ 1.

    Args:
        scores: (N, K), every column finite.
        scale: s_k, (K,).
        admissible: the weights allowed.

    Raises:
        LinearProgramError: if the solver fails.
    """
    found = solve_max_min(admissible.slopes(scores) / scale, admissible.largest_sum)
    return Headroom(
        value=max(found.value / len(scores), 0.0),
        weights=admissible.weights(found.removed),
        prices=found.prices,
        budget_price=found.budget_price,
    )
