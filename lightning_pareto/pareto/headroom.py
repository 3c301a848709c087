"""Headroom: how much every category could gain at once, with its dual prices."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pareto.linprog import INFINITY, LinearProgram
from lightning_pareto.pareto.admissible import AdmissibleSet, Float


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
    maximise t' subject to Σ_i d_i slope_ik / s_k − t' ≥ 0, Σ_i d_i ≤ budget·N, 0 ≤ d ≤ 1.

    Args:
        scores: (N, K), every column finite.
        scale: s_k, (K,).
        admissible: the weights allowed.

    Raises:
        LinearProgramError: if the solver fails.
    """
    n, k = scores.shape
    rows = np.zeros((k + 1, n + 1))
    rows[:k, :n] = (admissible.slopes(scores) / scale).T
    rows[:k, n] = -1
    rows[k, :n] = 1
    program = LinearProgram(
        objective=np.append(np.zeros(n), 1.0),
        rows=rows,
        row_lower=np.append(np.zeros(k), -INFINITY),
        row_upper=np.append(np.full(k, INFINITY), admissible.largest_sum),
        lower=np.append(np.zeros(n), -INFINITY),
        upper=np.append(np.ones(n), INFINITY),
    )
    solution = program.solve()
    prices = np.maximum(-solution.row_duals[:k], 0)
    return Headroom(
        value=max(solution.objective / n, 0.0),
        weights=admissible.weights(np.clip(solution.x[:n], 0, 1)),
        prices=prices / prices.sum(),
        budget_price=float(solution.row_duals[k]),
    )
