"""The max-min linear program with few rows and very many columns, solved exactly by sifting.

    maximise t  subject to  Σ_i d_i slope_ik ≥ t for every k,  Σ_i d_i ≤ B,  0 ≤ d ≤ 1

With prices λ ≥ 0, Σλ = 1, of the K rows and μ ≥ 0 of the budget, the reduced cost of column i is
r_i = Σ_k λ_k slope_ik − μ, and d is optimal where every column with r_i > 0 is at 1 and every one with r_i < 0 at 0. At
a vertex no more than K + 1 columns are elsewhere. So all but a few thousand columns are fixed at the bound that the
prices of a random tenth suggest (solved in the same way), and the LP is solved over the rest. Columns that its prices
find at the wrong bound are freed, those nearest to the guess first, until there is none. Each round starts from a
feasible point that is no worse, and the last one is optimal for all columns: its prices prove it.

Source: sifting; Bixby, Gregory, Lustig, Marsten and Shanno, "Very large-scale linear programming: a case study in
combining interior point and simplex methods", Operations Research 40 (1992).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pareto.linprog import INFINITY, LinearProgram, LinearProgramError
from lightning_pareto.pareto.admissible import Float

DIRECT = 5_000
"""Columns up to which the LP is solved whole."""

BAND = 15.0
"""Free columns of the first round, in units of √N: the prices of a sample are off by the order of 1/√N."""

WRONG_SIDE = 1e-7
"""Reduced cost above which a column at the wrong bound counts, in units of the mean absolute slope or 1, the larger."""

CERTIFIED = 1e-6
"""Largest gap between the value and its bound from the prices, per column and in the same units."""


@dataclass(frozen=True, eq=False)
class MaxMin:
    """An optimal point with its certificate.

    Attributes:
        value: t.
        removed: d, (N,).
        prices: λ, (K,).
        budget_price: μ, what a unit more of the budget B would add to t.
    """

    value: float
    removed: Float
    prices: Float
    budget_price: float


def solve_max_min(slopes: Float, budget: float) -> MaxMin:
    """Solve the LP above.

    Args:
        slopes: (N, K), finite, of the order of one: the solver's tolerances are absolute.
        budget: B ≥ 0.

    Raises:
        LinearProgramError: if the solver fails, or its prices do not prove the value.
    """
    n = len(slopes)
    unit = max(float(np.abs(slopes).mean()), 1.0)
    guess = _guess(slopes, budget) if n > DIRECT else np.zeros(n)
    removed = (guess > 0).astype(np.float64)
    free = _nearest(np.abs(guess), max(DIRECT, int(BAND * np.sqrt(n))))
    while True:
        found = _solve_free(slopes, budget, removed, free)
        reduced = slopes @ found.prices - found.budget_price
        wrong = ~free & (np.where(removed > 0, -reduced, reduced) > WRONG_SIDE * unit)
        if not wrong.any():
            break
        free |= _nearest(np.where(wrong, np.abs(guess), np.inf), int(free.sum())) & wrong
    gap = upper_bound(slopes, budget, found.prices) - found.value
    if gap > CERTIFIED * unit * n:
        raise LinearProgramError(f"the prices leave a gap of {gap / n:.1e} per sample: the LP is badly scaled")
    return found


def _guess(slopes: Float, budget: float) -> Float:
    """Reduced costs by the prices of a random tenth of the columns, (N,)."""
    sample = np.random.default_rng(0).choice(len(slopes), len(slopes) // 10, replace=False)
    values = slopes @ solve_max_min(slopes[sample], budget / 10).prices
    return values - _threshold(values, budget)


def _nearest(distance: Float, count: int) -> npt.NDArray[np.bool_]:
    """The columns of least distance, (N,)."""
    chosen = np.ones(len(distance), dtype=bool)
    if count < len(distance):
        chosen[np.argpartition(distance, count)[count:]] = False
    return chosen


def upper_bound(slopes: Float, budget: float, prices: Float) -> float:
    """What no admissible d exceeds: the λ-weighted slopes of the best B columns, the smallest of them in part."""
    values = slopes @ prices
    threshold = _threshold(values, budget)
    return float(budget * threshold + np.maximum(values - threshold, 0).sum())


def _threshold(values: Float, budget: float) -> float:
    """The price μ ≥ 0 at which no more than B columns pay."""
    whole = int(budget)
    if whole >= len(values):
        return 0.0
    return max(float(np.partition(values, len(values) - 1 - whole)[len(values) - 1 - whole]), 0.0)


def _solve_free(slopes: Float, budget: float, removed: Float, free: npt.NDArray[np.bool_]) -> MaxMin:
    """Solve over the free columns, the others staying where they are."""
    k = slopes.shape[1]
    fixed = np.where(free, 0.0, removed)
    columns = slopes[free]
    m = len(columns)
    rows = np.zeros((k + 1, m + 1))
    rows[:k, :m] = columns.T
    rows[:k, m] = -1
    rows[k, :m] = 1
    solution = LinearProgram(
        objective=np.append(np.zeros(m), 1.0),
        rows=rows,
        row_lower=np.append(-fixed @ slopes, -INFINITY),
        row_upper=np.append(np.full(k, INFINITY), budget - fixed.sum()),
        lower=np.append(np.zeros(m), -INFINITY),
        upper=np.append(np.ones(m), INFINITY),
    ).solve()
    prices = np.maximum(-solution.row_duals[:k], 0)
    fixed[free] = solution.x[:m].clip(0, 1)
    return MaxMin(solution.objective, fixed, prices / prices.sum(), max(float(solution.row_duals[k]), 0.0))
