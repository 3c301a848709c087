"""The headroom LP: how much all target categories can gain at once, and at which rates they trade."""

from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt

from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.admissible import AdmissibleSet, Float
from lightning_pareto.pareto.demand import Demand
from lightning_pareto.pareto.sifting import MaxMinProgram, upper_bound


@dataclass(frozen=True, eq=False)
class Headroom:
    """Solution of the headroom LP.

    Attributes:
        value: h, the largest relative gain that all targets can reach at once. It is ≥ 0 unless a floor is above zero.
        weights: admissible weights that reach h, (N,).
        prices: shadow prices λ ≥ 0 with sum 1 over the targets, (K,). If h = 0, no admissible change raises
            Σ_k λ_k gain_k/s_k. For a category with a floor: how much h rises per unit by which the floor is lowered.
    """

    value: float
    weights: Float
    prices: Float


def headroom(
    scores: npt.NDArray[np.floating],
    scale: Float,
    admissible: AdmissibleSet,
    demand: Demand | None = None,
    start: Float | None = None,
) -> Headroom:
    """Solve ``max_w min_{k∈T} gain_k(w) / s_k``, with ``gain_k(w)/s_k ≥ floor_k`` elsewhere, over admissible weights.

    The LP uses t' = N·t, so that its coefficients are of order one:
    maximise t' subject to Σ_i d_i slope_ik / s_k ≥ t' or N·floor_k, within the bounds of :class:`AdmissibleSet`.

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
    program = MaxMinProgram(
        admissible.slopes(scores) / scale, admissible.capacity, demand.targets, start, top=admissible.present
    )
    found = program.solve(n * demand.floors)
    least = -np.inf if (demand.floors[~demand.targets] > 0).any() else 0.0  # no change is feasible without such floors
    return Headroom(max(found.value / n, least), admissible.weights(found.removed), found.prices)


def floors_out_of_reach(
    influence: InfluenceMatrix, admissible: AdmissibleSet, demand: Demand, what: str = "floor"
) -> str:
    """The message for floors that the categories present cannot all hold.

    It names the first such category, adding floors in rising order, and its largest gain while the lower floors hold.
    """
    present = influence.present
    names = list(compress(influence.category_names, present))
    slopes = admissible.slopes(influence.scores[:, present]) / influence.scale[present]
    n, k = slopes.shape
    held = np.full(k, -np.inf)
    for category in (each for each in np.argsort(demand.floors, kind="stable") if not demand.targets[each]):
        floor = demand.floors[category]
        alone = np.arange(k) == category
        program = MaxMinProgram(slopes, admissible.capacity, alone, top=admissible.present)
        largest = program.solve(n * held).value / n
        if largest < floor:
            break
        held[category] = floor
    return (
        f"no admissible weights meet all {what}s: category {names[category]!r} must gain {floor:.4g} but can gain at "
        f"most {largest:.4g} if the lower {what}s are met. Lower its {what} (0 is always feasible) or raise the budget"
    )


def gains_alone(scores: np.ndarray, scale: Float, admissible: AdmissibleSet) -> Float:
    """Largest in-sample relative gain of each category if the others did not matter, (K,).

    Mass is then taken from the samples with the highest slopes, up to the budget.
    """
    n, k = scores.shape
    slopes = admissible.slopes(scores) / scale
    return np.array([upper_bound(slopes, admissible.capacity, unit, admissible.present) / n for unit in np.eye(k)])


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
