"""The paper's LP, at its word."""

import numpy as np

from lightning_pareto.linprog import INFINITY, InfeasibleError, LinearProgram
from lightning_pareto.pareto.admissible import Float


def solve_paper(scores: np.ndarray, targets: np.ndarray, thresholds: Float, max_weight: float) -> Float:
    """Maximise ``Σ_i w_i Σ_{t∈T} P_it`` with ``Σ_i w_i P_ik ≥ α_k Σ_i P_ik`` and ``0 ≤ w_i ≤ w_max``.

    It moves mass between classes freely. Taken without the paper's search over α it was measured to lose tens of
    points on single classes (see the README's limits); it is here for comparison and for that search.

    Args:
        scores: (N, K).
        targets: which categories are in T, (K,) bool.
        thresholds: α_k in [0, 1], (K,).
        max_weight: w_max ≥ 1.

    Returns:
        The weights, (N,).

    Raises:
        InfeasibleError: if no weights meet the thresholds.

    Source: arXiv:2510.03950, the linear program inside PARETO-LP-GA.
    """
    scores = scores.astype(np.float64)
    scale = np.abs(scores).mean(axis=0)
    scaled = scores / np.where(scale > 0, scale, 1.0)
    n, k = scores.shape
    program = LinearProgram(
        objective=scaled[:, targets] @ scale[targets] / max(scale[targets].mean(), np.finfo(float).tiny),
        rows=scaled.T,
        row_lower=thresholds * scaled.sum(axis=0),
        row_upper=np.full(k, INFINITY),
        lower=np.zeros(n),
        upper=np.full(n, max_weight),
    )
    try:
        return program.solve().x.clip(0, max_weight)
    except InfeasibleError as error:
        raise InfeasibleError(
            f"no weights in [0, {max_weight:g}] meet the thresholds {thresholds.round(4).tolist()}: lower them "
            "or raise max_weight"
        ) from error
