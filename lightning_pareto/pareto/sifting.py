"""The max-min linear program with few rows and very many columns, solved exactly by sifting.

    maximise t  subject to  Σ_i d_i slope_ik ≥ t for k in T,  Σ_i d_i slope_ik ≥ least_k for the others,
                            Σ_i d_i ≤ B,  0 ≤ d ≤ 1

With prices λ ≥ 0, Σ_{k∈T} λ_k = 1, of the K rows and μ ≥ 0 of the budget, the reduced cost of column i is
r_i = Σ_k λ_k slope_ik − μ, and d is optimal where every column with r_i > 0 is at 1 and every one with r_i < 0 at 0. At
a vertex no more than K + 1 columns are elsewhere. So all but a few thousand columns are fixed at the bound that the
prices of a random tenth suggest (solved in the same way), and the LP is solved over the rest. Columns that its prices
find at the wrong bound are freed, those nearest to the guess first, until there is none. Each round starts from a
point that is no worse, and the last one is optimal for all columns: its prices prove it.

Where the free columns cannot reach the floors, the round brings the least of them as near as it can instead; its prices
choose the columns to free in the same way, and prove, when there is none, that no d reaches the floors.

Source: sifting; Bixby, Gregory, Lustig, Marsten and Shanno, "Very large-scale linear programming: a case study in
combining interior point and simplex methods", Operations Research 40 (1992).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pareto.linprog import INFINITY, InfeasibleError, LinearProgram, LinearProgramError
from lightning_pareto.pareto.admissible import Float

DIRECT = 2_000
"""Columns up to which the LP is solved whole."""

BAND = 8.0
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
        prices: λ, (K,): with sum 1 over T; elsewhere what a unit less of ``least`` would add to t.
        capacity_price: μ, what a unit more of the budget B would add to t.
    """

    value: float
    removed: Float
    prices: Float
    capacity_price: float


class FloorsError(InfeasibleError):
    """No d reaches the floors.

    Attributes:
        nearest: the d that comes nearest: the largest least difference to the floors, (N,).
    """

    def __init__(self, shortfall: float, nearest: Float) -> None:
        super().__init__(f"the floors cannot be reached together: the least lacks {shortfall:.3g}")
        self.nearest = nearest


class MaxMinProgram:
    """The LP above, kept alive: solving it again with other floors or another budget starts from the last basis.

    Args:
        slopes: (N, K), finite, of the order of one: the solver's tolerances are absolute.
        capacity: B ≥ 0.
        targets: which rows are in T, (K,) bool; all by default.
        start: prices to begin with, (K,), for instance those of a similar program; by default those of a random tenth.
    """

    def __init__(
        self,
        slopes: Float,
        capacity: float,
        targets: npt.NDArray[np.bool_] | None = None,
        start: Float | None = None,
    ) -> None:
        n, k = slopes.shape
        self._slopes, self._capacity, self._start = slopes, capacity, start
        self._targets = np.ones(k, dtype=bool) if targets is None else targets
        self._unit = max(float(np.abs(slopes).mean()), 1.0)
        self._guess: Float = np.zeros(n)
        self._free: npt.NDArray[np.bool_] = np.zeros(n, dtype=bool)
        self._program: LinearProgram | None = None

    def solve(self, least: Float | None = None, capacity: float | None = None) -> MaxMin:
        """Solve for these floors.

        Args:
            least: the floors of the rows that are not in T, (K,), ``-inf`` for none; the entries of T are not read.
            capacity: another B ≥ 0, which stays.

        Raises:
            FloorsError: if no d reaches the floors.
            LinearProgramError: if the solver fails, or its prices do not prove the value.
        """
        least = np.full(len(self._targets), -INFINITY) if least is None else np.where(self._targets, 0.0, least)
        self._capacity = self._capacity if capacity is None else capacity
        again = bool(self._free.any() and self._fixed.sum() <= self._capacity)
        if not again:
            self._begin(self._prices_of_a_tenth(least) if self._start is None else self._start)
        while True:
            found, reached = self._solve_free(least)
            reduced = self._slopes @ found.prices - found.capacity_price
            wrong = np.where(self._fixed > 0, -reduced, reduced) > WRONG_SIDE * self._tolerated(found)
            wrong &= ~self._free
            if not wrong.any():
                break
            if again and reached:  # other floors, other prices: begin anew with these, they are near
                self._begin(found.prices)
                again = False
                continue
            self._release(_nearest(np.where(wrong, np.abs(self._guess), np.inf), int(self._free.sum())) & wrong)
        if not reached:
            raise FloorsError(-found.value, found.removed)
        self._start = found.prices
        gap = upper_bound(self._slopes, self._capacity, found.prices) - _priced(found.prices, self._floors(least))
        if gap - found.value > CERTIFIED * self._tolerated(found) * len(reduced):
            raise LinearProgramError(
                f"the prices leave a gap of {(gap - found.value) / len(reduced):.1e} per sample: the LP is "
                "badly scaled. Look for outliers, np.abs(influence.scores).max(axis=0), and clip them"
            )
        return found

    def _tolerated(self, found: MaxMin) -> float:
        """The unit of reduced costs: sums of slopes times prices, which floors can drive far above one."""
        return self._unit * max(float(found.prices.sum()), 1.0)

    def _floors(self, least: Float) -> Float:
        return np.where(self._targets, 0.0, least)

    def _begin(self, prices: Float) -> None:
        """Fix the columns that these prices leave no doubt about."""
        n = len(self._slopes)
        if n > DIRECT:
            self._guess = self._reduced(prices)
        self._free[:] = False
        self._fixed = (self._guess > 0).astype(np.float64)
        self._release(_nearest(np.abs(self._guess), max(DIRECT, int(BAND * np.sqrt(n)))))

    def _reduced(self, prices: Float) -> Float:
        values: Float = self._slopes @ prices
        return values - _threshold(values, self._capacity)

    def _prices_of_a_tenth(self, least: Float) -> Float:
        n, k = self._slopes.shape
        if n <= DIRECT:
            return np.zeros(k)
        sample = np.random.default_rng(0).choice(n, n // 10, replace=False)
        tenth = MaxMinProgram(self._slopes[sample], self._capacity / 10, self._targets)
        try:
            return tenth.solve(least / 10).prices
        except FloorsError:  # the floors are tight: chance decides whether a tenth can reach them
            return tenth.solve(None).prices

    def _release(self, columns: npt.NDArray[np.bool_]) -> None:
        self._free |= columns
        self._fixed[columns] = 0.0
        self._offset = self._fixed @ self._slopes
        self._program = None

    def _solve_free(self, least: Float) -> tuple[MaxMin, bool]:
        """Solve over the free columns, the others staying where they are; say whether they reach the floors."""
        lower = np.append(self._floors(least) - self._offset, -INFINITY)
        upper = np.append(np.full(len(least), INFINITY), self._capacity - self._fixed.sum())
        if self._program is None:
            self._program = self._program_over(self._targets, INFINITY, lower, upper)
        else:
            self._program.set_row_bounds(lower, upper)
        try:
            return self._read(self._program, self._targets), True
        except InfeasibleError:
            others = ~self._targets & (least > -INFINITY)
            lower[:-1][~others] = -INFINITY
            return self._read(self._program_over(others, 0.0, lower, upper), others), False

    def _program_over(self, moving: npt.NDArray[np.bool_], largest: float, lower: Float, upper: Float) -> LinearProgram:
        """Over the free columns: maximise t ≤ ``largest``, the rows ``moving`` lying above their bounds by t."""
        columns = self._slopes[self._free]
        m, k = columns.shape
        rows = np.zeros((k + 1, m + 1))
        rows[:k, :m] = columns.T
        rows[:k, m] = -1.0 * moving
        rows[k, :m] = 1
        return LinearProgram(
            objective=np.append(np.zeros(m), 1.0),
            rows=rows,
            row_lower=lower,
            row_upper=upper,
            lower=np.append(np.zeros(m), -INFINITY),
            upper=np.append(np.ones(m), largest),
        )

    def _read(self, program: LinearProgram, moving: npt.NDArray[np.bool_]) -> MaxMin:
        solution = program.solve()
        k = len(moving)
        prices = np.maximum(-solution.row_duals[:k], 0)
        removed = self._fixed.copy()
        removed[self._free] = solution.x[:-1].clip(0, 1)
        total = prices[moving].sum()
        return MaxMin(
            solution.objective,
            removed,
            prices / (total or 1.0),
            max(float(solution.row_duals[k]), 0.0) / (total or 1.0),
        )


def solve_max_min(slopes: Float, capacity: float) -> MaxMin:
    """Solve the LP above with all rows in T, once; see :class:`MaxMinProgram`."""
    return MaxMinProgram(slopes, capacity).solve()


def upper_bound(slopes: Float, capacity: float, prices: Float) -> float:
    """What no admissible d exceeds: the λ-weighted slopes of the best B columns, the smallest of them in part."""
    values = slopes @ prices
    threshold = _threshold(values, capacity)
    return float(capacity * threshold + np.maximum(values - threshold, 0).sum())


def _priced(prices: Float, floors: Float) -> float:
    """Σ_k λ_k least_k over the rows that have a price."""
    return float((prices[prices > 0] * floors[prices > 0]).sum())


def _nearest(distance: Float, count: int) -> npt.NDArray[np.bool_]:
    """The columns of least distance, (N,)."""
    chosen = np.ones(len(distance), dtype=bool)
    if count < len(distance):
        chosen[np.argpartition(distance, count)[count:]] = False
    return chosen


def _threshold(values: Float, capacity: float) -> float:
    """The price μ ≥ 0 at which no more than B columns pay."""
    whole = int(capacity)
    if whole >= len(values):
        return 0.0
    return max(float(np.partition(values, len(values) - 1 - whole)[len(values) - 1 - whole]), 0.0)
