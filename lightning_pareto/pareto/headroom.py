"""Headroom: how much the categories could gain at once, with its dual prices."""

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
        value: h, the largest relative gain that every target can have at once; ≥ 0 unless a floor is above zero.
        weights: admissible weights that reach it, (N,).
        prices: trade-off prices λ ≥ 0, (K,), with sum 1 over the targets: where h = 0, no admissible change raises
            Σ_k λ_k gain_k/s_k. Of a category with a floor: what a unit less of it would add to h.
        budget_price: what a unit more of the budget (a share of the training mass) would add to h.
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

    Written with t' = N·t for coefficients of order one:
    maximise t' subject to Σ_i d_i slope_ik / s_k ≥ t' or N·floor_k, Σ_i d_i ≤ budget·N, 0 ≤ d ≤ 1.

    Args:
        scores: (N, K), every column finite.
        scale: s_k, (K,).
        admissible: the weights allowed.
        demand: the targets and the floors of the others; by default every category is a target.
        start: prices to begin with, (K,), for instance those of other scores of the same samples. They save time and
            change nothing.

    Raises:
        FloorsError: if the floors cannot be held together; its ``nearest`` comes nearest.
        LinearProgramError: if the solver fails.
    """
    n, k = scores.shape
    demand = Demand.of_all(k) if demand is None else demand
    program = MaxMinProgram(admissible.slopes(scores) / scale, admissible.capacity, demand.targets, start)
    found = program.solve(n * demand.floors)
    free = not (demand.floors[~demand.targets] > 0).any()  # then no change at all is feasible: h ≥ 0
    return Headroom(
        value=max(found.value / n, 0.0) if free else found.value / n,
        weights=admissible.weights(found.removed),
        prices=found.prices,
        budget_price=found.capacity_price,
    )


def floor_out_of_reach(
    scores: npt.NDArray[np.floating], scale: Float, admissible: AdmissibleSet, demand: Demand
) -> tuple[int, float]:
    """Find the floor that cannot be held beside those below it, and the most that its category can have then.

    The floors are taken in rising order: the first category whose largest gain, given the floors before it, falls short
    of its own.

    Returns:
        The category's number and its largest relative gain.
    """
    n, k = scores.shape
    slopes = admissible.slopes(scores) / scale
    held = np.full(k, -np.inf)
    others = [category for category in np.argsort(demand.floors, kind="stable") if not demand.targets[category]]
    for category in others:
        program = MaxMinProgram(slopes, admissible.capacity, np.arange(k) == category)
        largest = program.solve(n * held).value / n
        if largest < demand.floors[category]:
            return int(category), largest
        held[category] = demand.floors[category]
    return int(others[-1]), largest
