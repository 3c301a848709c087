"""The max-min linear program with few rows and very many columns, solved exactly by sifting.

    maximise t  subject to  Σ_i d_i slope_ik ≥ t for k in T,  Σ_i d_i slope_ik ≥ floor_k for the others,
                            Σ_i d_i ≤ B,  0 ≤ d ≤ top

**Optimality.** Let λ ≥ 0 with Σ_{k∈T} λ_k = 1 be the prices of the K rows, and μ ≥ 0 the price of the capacity B. The
reduced cost of column i is r_i = Σ_k λ_k slope_ik − μ. Then d is optimal if every column with r_i > 0 is at its top and
every column with r_i < 0 is at 0. At a vertex, at most K + 1 columns are strictly between their bounds.

**Sifting.** So almost all columns can be fixed at a bound, and the LP is solved over the remaining few:

1. Take prices near the optimal ones from the smoothed dual.
2. Fix the columns whose reduced costs are clear under these prices, relative to the length of the column's slopes. The
   others are free.
3. Solve the LP over the free columns. Its prices may show that some fixed columns are at the wrong bound.
4. Free these columns and repeat from 3, until there are none. A round at most doubles the number of free columns, and
   frees those with the smallest guessed reduced costs first.

Each round starts from a point that is no worse than the last. The final prices prove that the solution is optimal over
all columns.

**Infeasible floors.** If the free columns cannot reach the floors, a round minimises the largest shortfall instead. Its
prices choose the columns to free in the same way. If there are none left, they prove that no d reaches the floors.

Source: sifting; Bixby, Gregory, Lustig, Marsten and Shanno, "Very large-scale linear programming: a case study in
combining interior point and simplex methods", Operations Research 40 (1992).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pareto.linprog import INFINITY, InfeasibleError, LinearProgram, LinearProgramError
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.pareto.dual import SmoothedDual

MAX_DIRECT = 2_000
"""Number of columns up to which the LP is solved directly: all of them are free from the start."""

LEAST_FREE, FREE_PER_ROW = 500, 2
"""Least number of free columns in the first round, and per row. An optimum has one between its bounds per row."""

BINDING = 1e-4
"""Least price, relative to the mean one, at which a row is taken to bind in the first basis."""

MISPLACED = 1e-7
"""Reduced cost above which a column counts as being at the wrong bound. The unit is max(1, mean absolute slope)."""

MAX_GAP = 1e-6
"""Largest accepted duality gap, per column and in the same unit."""


@dataclass(frozen=True, eq=False)
class MaxMin:
    """An optimal point and the prices that certify it.

    Attributes:
        value: t.
        removed: d, (N,).
        prices: λ with sum 1 over T, (K,). For the other rows: how much t rises per unit by which the floor is lowered.
        capacity_price: μ, how much t rises per unit of additional capacity B.
    """

    value: float
    removed: Float
    prices: Float
    capacity_price: float


class FloorsError(InfeasibleError):
    """No d reaches the floors.

    Attributes:
        nearest: the d that minimises the largest shortfall, (N,).
    """

    def __init__(self, shortfall: float, nearest: Float) -> None:
        super().__init__(f"the floors cannot all be reached: one of them is missed by at least {shortfall:.3g}")
        self.nearest = nearest


class MaxMinProgram:
    """The LP above. Solving it again with other floors or another capacity starts from the last basis.

    Args:
        slopes: (N, K), finite and of order one, because the solver's tolerances are absolute.
        capacity: B ≥ 0.
        targets: which rows are in T, (K,) bool. All by default.
        start: initial prices, (K,), for instance from a similar program.
        top: upper bounds of d, (N,). 1 by default.
    """

    def __init__(
        self,
        slopes: Float,
        capacity: float,
        targets: npt.NDArray[np.bool_] | None = None,
        start: Float | None = None,
        *,
        top: Float | None = None,
    ) -> None:
        n, k = slopes.shape
        self._slopes, self._capacity, self._start = slopes, capacity, start
        self._top = np.ones(n) if top is None else top
        self._targets = np.ones(k, dtype=bool) if targets is None else targets
        self._unit = max(float(np.abs(slopes).mean()), 1.0)
        self._lengths = np.maximum(np.linalg.norm(slopes, axis=1), 1e-9 * self._unit)
        self._guess: Float = np.zeros(n)
        self._free: npt.NDArray[np.bool_] = np.zeros(n, dtype=bool)
        self._program: LinearProgram | None = None

    def solve(self, floors: Float | None = None, capacity: float | None = None) -> MaxMin:
        """Solve the LP.

        Args:
            floors: floors of the rows outside T, (K,), ``-inf`` (the default) for no floor. Entries of T are ignored.
            capacity: a new B ≥ 0, which also holds for later calls.

        Raises:
            FloorsError: if no d reaches the floors.
            LinearProgramError: if the solver fails, or if its prices do not prove that the value is optimal.
        """
        floors = np.where(self._targets, 0.0, -INFINITY if floors is None else floors)
        self._capacity = self._capacity if capacity is None else capacity
        reuse = bool(self._free.any() and self._fixed.sum() <= self._capacity)
        if not reuse:
            self._choose_free(self._start, floors)
        while True:
            found, reached = self._solve_free(floors)
            reduced = self._slopes @ found.prices - found.capacity_price
            # prices, and with them reduced costs, can grow far above one where floors bind
            unit = self._unit * max(float(found.prices.sum()), 1.0)
            misplaced = np.where(self._fixed > 0, -reduced, reduced) > MISPLACED * unit
            misplaced &= ~self._free & (self._top > 0)
            if not misplaced.any():
                break
            if reuse:  # the free columns suited the last floors: choose new ones for these
                self._choose_free(self._start, floors)
                reuse = False
                continue
            distance = np.where(misplaced, np.abs(self._guess), np.inf)
            self._release(_smallest(distance, int(self._free.sum())) & misplaced)
        if not reached:
            raise FloorsError(-found.value, found.removed)
        self._start = found.prices
        priced = found.prices > 0
        bound = upper_bound(self._slopes, self._capacity, found.prices, self._top)
        bound -= float((found.prices[priced] * floors[priced]).sum())
        if bound - found.value > MAX_GAP * unit * len(reduced):
            raise LinearProgramError(
                f"the LP has a duality gap of {(bound - found.value) / len(reduced):.1e} per sample, because it is "
                "badly scaled. Look for outliers in np.abs(influence.scores).max(axis=0) and clip them"
            )
        return found

    def _choose_free(self, start: Float | None, floors: Float) -> None:
        """Fix the columns whose reduced costs are clear under prices near the optimal ones, and free the others."""
        n, k = self._slopes.shape
        self._free[:] = False
        if n <= MAX_DIRECT:
            self._fixed = np.zeros(n)
            self._release(np.ones(n, dtype=bool))
            return
        free = max(LEAST_FREE, FREE_PER_ROW * k)
        dual = SmoothedDual(self._slopes, self._capacity, self._targets, floors, self._top, self._lengths)
        prices = dual.prices(start, free)
        self._guess = self._reduced(prices) / self._lengths
        self._fixed = np.where(self._guess > 0, self._top, 0.0)
        self._release(_smallest(np.abs(self._guess), free))
        self._program = self._program_over(self._targets, INFINITY, *self._row_bounds(floors))
        self._start_from(prices)

    def _start_from(self, prices: Float) -> None:
        """Start the LP over the free columns from the basis that near-optimal prices suggest."""
        assert self._program is not None
        guess, spent = self._guess[self._free], self._fixed.sum() + self._top[self._free & (self._guess > 0)].sum()
        binding = np.append(-1 * (prices > BINDING * prices.mean()), spent > 0.99 * self._capacity)
        basic = np.append(_smallest(np.abs(guess), int(np.abs(binding).sum()) - 1), True)  # t is basic as well
        self._program.start_from(basic, np.append(guess > 0, False), binding)

    def _row_bounds(self, floors: Float) -> tuple[Float, Float]:
        lower = np.append(floors - self._offset, -INFINITY)
        return lower, np.append(np.full(len(floors), INFINITY), self._capacity - self._fixed.sum())

    def _reduced(self, prices: Float) -> Float:
        values: Float = self._slopes @ prices
        return values - _threshold(values, self._capacity, self._top)

    def _release(self, columns: npt.NDArray[np.bool_]) -> None:
        self._free |= columns
        self._fixed[columns] = 0.0
        self._offset = self._fixed @ self._slopes
        self._program = None

    def _solve_free(self, floors: Float) -> tuple[MaxMin, bool]:
        """Solve over the free columns, and return whether they reach the floors."""
        lower, upper = self._row_bounds(floors)
        if self._program is None:
            self._program = self._program_over(self._targets, INFINITY, lower, upper)
        else:
            self._program.set_row_bounds(lower, upper)
        try:
            return self._read(self._program, self._targets), True
        except InfeasibleError:
            others = ~self._targets & (floors > -INFINITY)
            lower[:-1][~others] = -INFINITY
            return self._read(self._program_over(others, 0.0, lower, upper), others), False

    def _program_over(self, raised: npt.NDArray[np.bool_], largest: float, lower: Float, upper: Float) -> LinearProgram:
        """LP over the free columns: maximise t ≤ ``largest``, with the lower bounds of ``raised`` rows raised by t."""
        columns = self._slopes[self._free]
        m, k = columns.shape
        rows = np.zeros((k + 1, m + 1))
        rows[:k, :m] = columns.T
        rows[:k, m] = -1.0 * raised
        rows[k, :m] = 1
        return LinearProgram(
            objective=np.append(np.zeros(m), 1.0),
            rows=rows,
            row_lower=lower,
            row_upper=upper,
            lower=np.append(np.zeros(m), -INFINITY),
            upper=np.append(self._top[self._free], largest),
        )

    def _read(self, program: LinearProgram, raised: npt.NDArray[np.bool_]) -> MaxMin:
        """Solve an LP over the free columns, and scale its prices to sum 1 over the raised rows."""
        solution = program.solve()
        k = len(raised)
        prices = np.maximum(-solution.row_duals[:k], 0)
        removed = self._fixed.copy()
        removed[self._free] = solution.x[:-1].clip(0, self._top[self._free])
        total = prices[raised].sum() or 1.0
        return MaxMin(solution.objective, removed, prices / total, max(float(solution.row_duals[k]), 0.0) / total)


def upper_bound(slopes: Float, capacity: float, prices: Float, top: Float | None = None) -> float:
    """Upper bound on t from the prices: sum of the B largest λ-weighted slopes, the last of them in part."""
    values = slopes @ prices
    top = np.ones(len(values)) if top is None else top
    threshold = _threshold(values, capacity, top)
    return float(capacity * threshold + (top * np.maximum(values - threshold, 0)).sum())


def _smallest(values: Float, count: int) -> npt.NDArray[np.bool_]:
    """Mask of the ``count`` smallest values, (N,)."""
    chosen = np.ones(len(values), dtype=bool)
    if count < len(values):
        chosen[np.argpartition(values, count)[count:]] = False
    return chosen


def _threshold(values: Float, capacity: float, top: Float) -> float:
    """Price μ ≥ 0 such that the values above it have tops of at most B together."""
    order = np.argsort(-values)
    position = int(np.searchsorted(top[order].cumsum(), capacity, side="right"))
    return max(float(values[order[position]]), 0.0) if position < len(values) else 0.0
