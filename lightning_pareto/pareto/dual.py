"""Prices of the max-min program, nearly, by Newton's method on its smoothed dual.

The dual has one variable per row and one for the capacity, however many columns there are:

    minimise  B μ + Σ_i top_i max(λ·slope_i − μ, 0) − Σ_k floor_k λ_k   over λ, μ ≥ 0 with Σ_{k∈T} λ_k = 1

The kink of each column is smoothed over a width that is a share τ of the length of its slopes, so that heavy-tailed
columns are treated alike. The bounds λ, μ ≥ 0 get logarithmic barriers. τ falls from stage to stage until few columns
are within their width. For these alone it is open on which side of the kink they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from lightning_pareto.linprog import INFINITY
from lightning_pareto.pareto.admissible import Float

FIRST_WIDTH, NEXT_WIDTH, LAST_WIDTH, SHRINK = 1.0, 0.01, 1e-6, 0.3
"""First τ, without and with a guess of the prices, least τ, and its factor from stage to stage."""

LEAST_SAMPLED, SAMPLED_PER_ROW = 2_000, 10
"""Least number of columns of a stage, and per row. Random 1/τ² of them determine prices as well as the width does."""

BLOCK = 2**22
"""How many slopes of columns near their kink are copied at a time."""

STEPS, TOLERANCE = 30, 1e-3
"""Most Newton steps of a stage, and the decrement, relative to τ, at which it ends."""

TAIL = 12.0
"""Columns farther from their kink than this many widths count as being clearly on one side."""

LARGEST_PRICE = 1e6
"""A price above this means that the floors are out of reach, and the dual is unbounded."""


@dataclass(frozen=True, eq=False)
class SmoothedDual:
    """The smoothed dual of a max-min program.

    Attributes:
        slopes: (N, K).
        capacity: B.
        targets: rows in T, (K,) bool.
        floors: floors of the other rows, (K,), −inf for none.
        top: upper bounds, (N,).
        lengths: length of each column's slopes, (N,), > 0.
    """

    slopes: Float
    capacity: float
    targets: npt.NDArray[np.bool_]
    floors: Float
    top: Float
    lengths: Float

    def prices(self, start: Float | None, enough: int) -> Float:
        """Prices λ, (K,), at which at most ``enough`` columns are within their width, if there are any such.

        Args:
            start: a guess; equal prices by default.
            enough: a number of columns.
        """
        used = self.targets | (self.floors > -INFINITY)
        inner = (
            self
            if used.all()
            else replace(self, slopes=self.slopes[:, used], targets=self.targets[used], floors=self.floors[used])
        )
        point = np.full(used.sum() + 1, 1.0) if start is None else np.append(start[used], 1.0)
        point = np.maximum(point, 1e-3 * point[:-1][inner.targets].mean())
        point[:-1][inner.targets] /= point[:-1][inner.targets].sum()
        order = np.random.default_rng(0).permutation(len(self.slopes))
        for width in _widths(FIRST_WIDTH if start is None else NEXT_WIDTH):
            part = inner._part(order[: max(LEAST_SAMPLED, SAMPLED_PER_ROW * len(point), int(width**-2))])
            point, within = part._stage(point, width)
            if (part is inner and within <= enough) or point.max() > LARGEST_PRICE:
                break
        found = np.zeros(len(used))
        found[used] = point[:-1]
        return found

    def _part(self, chosen: npt.NDArray[np.int64]) -> "SmoothedDual":
        """The dual over some columns, with its capacity and floors in proportion."""
        share = len(chosen) / len(self.slopes)
        if share == 1:
            return self
        part = {name: getattr(self, name)[chosen] for name in ("slopes", "top", "lengths")}
        return replace(self, **part, capacity=self.capacity * share, floors=self.floors * share)

    def _stage(self, point: Float, width: float) -> tuple[Float, int]:
        """Newton's method from (λ, μ), (K + 1,), for one width. Also returns how many columns are within it."""
        values = self._values(point)
        for _ in range(STEPS):
            step, decrement = self._step(point, values, width)
            if decrement < TOLERANCE * width:
                break
            falling = step < 0
            size = min(1.0, 0.95 * float((-point[falling] / step[falling]).min(initial=np.inf)))
            along, before = self._values(step), self._objective(point, values, width)
            while size > 1e-8:
                found = self._objective(point + size * step, values + size * along, width)
                if found <= before - 0.1 * size * decrement:
                    break
                size /= 2
            point, values = point + size * step, values + size * along
        return point, int((np.abs(values) <= TAIL * width * self.lengths).sum())

    def _values(self, point: Float) -> Float:
        """Reduced costs λ·slope_i − μ, (N,)."""
        values: Float = self.slopes @ point[:-1] - point[-1]
        return values

    def _objective(self, point: Float, values: Float, width: float) -> float:
        """The smoothed dual with barriers, per column."""
        widths = width * self.lengths
        smoothed: float = float(self.top @ (widths * np.logaddexp(0.0, values / widths)))
        smoothed += float(self.capacity * point[-1] - self._linear @ point[:-1])
        barrier: float = width**2 * float(np.log(point[self._free]).sum())
        return smoothed / len(values) - barrier

    @property
    def _linear(self) -> Float:
        return np.where(self.targets, 0.0, self.floors)

    @property
    def _free(self) -> npt.NDArray[np.bool_]:
        """Variables with a barrier: all but a single target, whose price is 1."""
        return np.append(~self.targets if self.targets.sum() == 1 else np.ones_like(self.targets), True)

    def _step(self, point: Float, values: Float, width: float) -> tuple[Float, float]:
        """The Newton step, and the decrement: how much it lowers the objective to first order."""
        n, free = len(values), self._free
        ratio = values / (width * self.lengths)
        share = self.top * expit(ratio)
        gradient = np.append(share @ self.slopes - self._linear, self.capacity - share.sum()) / n
        gradient[free] -= width**2 / point[free]
        hessian = self._bend(np.flatnonzero(np.abs(ratio) < TAIL), share * expit(-ratio) / (width * self.lengths)) / n
        hessian[np.diag_indices_from(hessian)] += np.where(free, width**2 / point**2, 1.0) + 1e-12
        border = np.append(self.targets, False).astype(np.float64)
        system = np.block([[hessian, border[:, None]], [border[None], np.zeros((1, 1))]])
        step = np.linalg.solve(system, np.append(-gradient, 0.0))[:-1]
        return step, float(-gradient @ step)

    def _bend(self, near: npt.NDArray[np.int64], weights: Float) -> Float:
        """Weighted sum of outer products of (slope_i, −1) over some columns, (K + 1, K + 1)."""
        size = self.slopes.shape[1] + 1
        total = np.zeros((size, size))
        block = max(1, BLOCK // size)
        for some in (near[first : first + block] for first in range(0, len(near), block)):
            columns = np.empty((len(some), size))
            np.take(self.slopes, some, axis=0, out=columns[:, :-1])
            columns[:, -1] = -1
            columns *= np.sqrt(weights[some])[:, None]
            total += columns.T @ columns
        return total


def _widths(first: float) -> Iterator[float]:
    while first >= LAST_WIDTH:
        yield first
        first *= SHRINK
