"""The headroom LP: how much all target categories can gain at once, with its shadow prices."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pareto.pareto.admissible import AdmissibleSet, Float
from lightning_pareto.pareto.demand import Demand
from lightning_pareto.pareto.sifting import MaxMinProgram


@dataclass(frozen=True, eq=False)
class Headroom:
    """Solution of the headroom LP.

    Attributes:
        value: h, the largest relative gain that all targets can reach at once. It is ≥ 0 unless a floor is above zero.
        weights: admissible weights that reach h, (N,).
        prices: shadow prices λ ≥ 0 with sum 1 over the targets, (K,). If h = 0, no admissible change raises
            Σ_k λ_k gain_k/s_k. For a category with a floor: how much h rises per unit by which the floor is lowered.
        budget_price: how much h rises per unit of additional budget (a share of the training mass).
    """

    value: float
    weights: Float
    prices: Float
    budget_price: float


def headroom(
    scores: npt.NDArray[np.floating],
    scale: Float,
    admissible: AdmissibleSet,
    demand: Demand | None = None,
    start: Float | None = None,
) -> Headroom:
    """Solve ``max_w min_{k∈T} gain_k(w) / s_k``, with ``gain_k(w)/s_k ≥ floor_k`` elsewhere, over admissible weights.

    The LP uses t' = N·t, so that its coefficients are of order one:
    maximise t' subject to Σ_i d_i slope_ik / s_k ≥ t' or N·floor_k, Σ_i d_i ≤ budget·N, 0 ≤ d ≤ 1.

    Args:
        scores: influence P, (N, K), all finite.
        scale: s_k, (K,).
        admissible: the allowed weights.
        demand: the targets and the floors of the others. By default every category is a target.
        start: initial prices, (K,), for instance from other scores of the same samples. They save time and do not
            change the result.

    Raises:
        FloorsError: if no admissible weights hold all floors. Its ``nearest`` comes closest.
        LinearProgramError: if the solver fails.
    """
    n, k = scores.shape
    demand = Demand.of_all(k) if demand is None else demand
    program = MaxMinProgram(admissible.slopes(scores) / scale, admissible.capacity, demand.targets, start)
    found = program.solve(n * demand.floors)
    unchanged_is_feasible = not (demand.floors[~demand.targets] > 0).any()  # then h ≥ 0
    return Headroom(
        value=max(found.value / n, 0.0) if unchanged_is_feasible else found.value / n,
        weights=admissible.weights(found.removed),
        prices=found.prices,
        budget_price=found.capacity_price,
    )


def floor_out_of_reach(
    scores: npt.NDArray[np.floating], scale: Float, admissible: AdmissibleSet, demand: Demand
) -> tuple[int, float]:
    """Find the first floor that cannot be held, adding floors in rising order.

    Returns:
        Index of the category with this floor, and its largest relative gain while the lower floors are held.
    """
    n, k = scores.shape
    slopes = admissible.slopes(scores) / scale
    held = np.full(k, -np.inf)
    others = [int(category) for category in np.argsort(demand.floors, kind="stable") if not demand.targets[category]]
    for category in others:
        program = MaxMinProgram(slopes, admissible.capacity, np.arange(k) == category)
        largest = program.solve(n * held).value / n
        if largest < demand.floors[category]:
            return category, largest
        held[category] = demand.floors[category]
    return others[-1], largest
