"""The mass-preserving LP: move training mass within each class only."""

from typing import Literal

import numpy as np

from lightning_pareto.linprog import INFINITY, InfeasibleError, LinearProgram
from lightning_pareto.pareto.admissible import AdmissibleSet, Float

GiveBack = Literal["additive", "multiplicative"]


def solve_mass_preserving(
    scores: np.ndarray, scale: Float, admissible: AdmissibleSet, targets: np.ndarray, floors: Float
) -> Float:
    """Maximise ``Σ_{t∈T} gain_t/s_t`` with ``gain_k/s_k ≥ floor_k`` over the admissible weights.

    Args:
        scores: (N, K).
        scale: s_k, (K,).
        admissible: the weights allowed.
        targets: which categories are in T, (K,) bool.
        floors: least relative gain of every category, (K,).

    Returns:
        The mass d taken from every sample, in [0, 1], (N,).

    Raises:
        InfeasibleError: if the floors cannot be met together.
    """
    n, k = scores.shape
    slopes = admissible.slopes(scores) / scale
    program = LinearProgram(
        objective=slopes[:, targets].sum(axis=1),
        rows=np.vstack([slopes.T, np.ones((1, n))]),
        row_lower=np.append(floors * n, -INFINITY),
        row_upper=np.append(np.full(k, INFINITY), admissible.largest_sum),
        lower=np.zeros(n),
        upper=np.ones(n),
    )
    try:
        return program.solve().x.clip(0, 1)
    except InfeasibleError as error:
        raise InfeasibleError(
            f"no admissible weights reach relative gains of {floors.round(4).tolist()}: lower the thresholds "
            "(0 is always feasible) or raise the budget. check_pareto(...).headroom is the largest gain that all "
            "categories can have at once"
        ) from error


def give_back(removed: Float, admissible: AdmissibleSet, how: GiveBack) -> Float:
    """Turn removed mass d into weights that keep the mass of every class, (N,).

    Args:
        removed: d in [0, 1], (N,).
        admissible: holds the classes.
        how: ``"additive"`` gives evenly to the whole class, ``w_i = 1 − d_i + mean_j d_j``; ``"multiplicative"`` only
            to what is kept, ``w_i = (1 − d_i) n_c / Σ_{j∈c} (1 − d_j)``, so that rejected samples get nothing.
    """
    additive = admissible.weights(removed)
    if how == "additive":
        return additive
    kept = 1 - removed
    class_mean_kept = 1 - (additive - kept)  # the additive rule gives back the class mean of d
    return np.divide(kept, class_mean_kept, out=np.ones_like(kept), where=class_mean_kept > 0)
