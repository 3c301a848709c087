"""From an influence matrix to sample weights."""

from typing import Literal, get_args

import numpy as np

from lightning_pareto.arguments import checked_number
from lightning_pareto.influence.matrix import InfluenceMatrix, check_type
from lightning_pareto.linprog import InfeasibleError
from lightning_pareto.pareto.admissible import DEFAULT_BUDGET, AdmissibleSet, check_budget
from lightning_pareto.pareto.demand import Demand, Limits, Targets, chosen_categories, per_category
from lightning_pareto.pareto.headroom import floor_out_of_reach, headroom
from lightning_pareto.reweighting.mass_preserving import GiveBack, MassPreservingProgram, give_back
from lightning_pareto.reweighting.paper import PaperProgram
from lightning_pareto.reweighting.weights import SampleWeights, weights_from

HEADROOM_SHARE = 0.6
"""Floor of every category's gain, as a share of what all can have at once, where no targets are chosen.

Between the sum of gains (0), which may pass over a weak category, and their minimum (1), which was measured to let
strong categories go. On Fashion-MNIST with 30 % label noise, over four development seeds, 0, 0.6 and 0.9 changed the
mean over classes by +1.06, +1.21 and +0.94 points, the weakest class by −0.3, +3.2 and +5.1, and the class hit worst
by −0.3, −0.1 and −1.3.
"""


def reweight(
    influence: InfluenceMatrix,
    *,
    targets: Targets = None,
    thresholds: Limits = None,
    budget: float | None = None,
    method: Literal["mass_preserving", "paper"] = "mass_preserving",
    return_mass: GiveBack = "additive",
    max_weight: float = 2.0,
) -> SampleWeights:
    """Find sample weights that raise the target categories without lowering another, to first order.

    ``"mass_preserving"`` (default): take mass from at most a share ``budget`` of the samples and give it back within
    each one's class; maximise the sum of the targets' relative gains, with a floor for every category. Without targets
    the floor is 0.6 of the headroom, so that the weak categories have their share of the sum; with targets it is 0.

    ``"paper"``: the LP of PARETO-LP-GA with thresholds α and weights up to ``max_weight``. It moves mass between
    classes; its predictions hold for small steps only.

    Args:
        influence: the influence matrix.
        targets: category or categories to raise, by name or number; all by default.
        thresholds: for ``"mass_preserving"`` the least relative gain (in units of mean absolute influence) of each
            category; for ``"paper"`` the share α_k ∈ [0, 1] of its influence that each keeps, 0.9 by
            default. One number, K, or some by name as ``{"shirt": -0.02}``.
        budget: share of the training mass that may move, in (0, 1]; ``"mass_preserving"`` only. By default the one that
            the fit's callback was given, which the influence remembers, otherwise 0.2. The weights print it.
        method: which LP.
        return_mass: ``"additive"`` gives mass back evenly to the class, ``"multiplicative"`` only to samples kept;
            ``"mass_preserving"`` only.
        max_weight: largest weight, ≥ 1; ``"paper"`` only.

    Returns:
        The weights, with the gain that they predict for each category.

    Raises:
        ValueError: for unknown targets or methods, or options out of range.
        InfeasibleError: if the thresholds cannot be met; it names the category and what it can have.

    Example:
        >>> influence = InfluenceMatrix([[1.0, 0.5], [-2.0, -1.0], [0.5, 1.0], [0.5, 0.5]], [0, 0, 1, 1])
        >>> reweight(influence, budget=0.25).values
        array([1.5, 0.5, 1. , 1. ])
    """
    check_type(influence)
    budget = influence.asked("budget", DEFAULT_BUDGET) if budget is None else budget
    check_budget(budget)
    if return_mass not in get_args(GiveBack):
        raise ValueError(f"return_mass must be one of {get_args(GiveBack)}, found {return_mass!r}")
    present = influence.present
    scores = influence.scores[:, present]
    chosen = chosen_categories(influence.category_names, targets)[present]
    if not chosen.any():
        raise ValueError("none of the targets has validation samples")
    if method == "mass_preserving":
        admissible, scale = AdmissibleSet(influence.labels, budget), influence.scale[present]
        if thresholds is None and targets is None:
            thresholds = HEADROOM_SHARE * headroom(scores, scale, admissible).value
        limits = per_category(thresholds, influence.category_names, 0.0)[present]
        program = MassPreservingProgram(scores, scale, admissible, chosen)
        try:
            removed = program.solve(limits)
        except InfeasibleError as error:
            number, largest = floor_out_of_reach(scores, scale, admissible, Demand(np.zeros_like(chosen), limits))
            raise InfeasibleError(
                f"no admissible weights meet the thresholds: category {_name(influence, number)!r} is to gain "
                f"{limits[number]:.4g} and can gain at most {largest:.4g} beside the lower thresholds of the others. "
                "Lower its threshold (0 is always feasible) or raise the budget"
            ) from error
        values = give_back(removed, admissible, return_mass)
    elif method == "paper":
        limits = per_category(thresholds, influence.category_names, 0.9)[present]
        if not checked_number(max_weight, "max_weight must be at least 1") >= 1:
            raise ValueError(f"max_weight must be at least 1, found {max_weight}")
        if (limits < 0).any() or (limits > 1).any():
            raise ValueError(f"thresholds of the paper's LP lie in [0, 1], found {limits.tolist()}")
        paper = PaperProgram(scores, chosen, max_weight)
        try:
            values = paper.solve(limits)
        except InfeasibleError as error:
            number, share = paper.out_of_reach(limits)
            raise InfeasibleError(
                f"no weights in [0, {max_weight:g}] meet the thresholds: category {_name(influence, number)!r} has "
                f"{limits[number]:.4g} and can have {share} beside the thresholds before it. Change its threshold or "
                "raise max_weight"
            ) from error
    else:
        raise ValueError(f"method must be 'mass_preserving' or 'paper', found {method!r}")
    options = {"method": method, "budget": budget, "return_mass": return_mass, "max_weight": max_weight}
    return weights_from(influence, values, **options)


def _name(influence: InfluenceMatrix, number: int) -> str:
    """Name of a category, counted over those with validation samples."""
    return influence.category_names[int(np.flatnonzero(influence.present)[number])]
