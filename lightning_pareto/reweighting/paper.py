"""The paper's LP, at its word."""

import numpy as np

from lightning_pareto.linprog import INFINITY, InfeasibleError, LinearProgram
from lightning_pareto.pareto.admissible import Float


class PaperProgram:
    """Maximise ``Σ_i w_i Σ_{t∈T} P_it`` with ``Σ_i w_i P_ik ≥ α_k Σ_i P_ik`` and ``0 ≤ w_i ≤ w_max``.

    It moves mass between classes freely. Taken without the paper's search over α it was measured to lose tens of
    points on single classes (see the README's limits); it is here for comparison and for that search. The solver's
    model is kept: another call with other thresholds starts from the last basis.

    Args:
        scores: (N, K).
        targets: which categories are in T, (K,) bool.
        max_weight: w_max ≥ 1.

    Source: arXiv:2510.03950, the linear program inside PARETO-LP-GA.
    """

    def __init__(self, scores: np.ndarray, targets: np.ndarray, max_weight: float) -> None:
        scores = scores.astype(np.float64)
        scale = np.abs(scores).mean(axis=0)
        scaled = scores / np.where(scale > 0, scale, 1.0)
        n, k = scores.shape
        self._sums = scaled.sum(axis=0)
        self._max_weight = max_weight
        self._program = LinearProgram(
            objective=scaled[:, targets] @ scale[targets] / max(scale[targets].mean(), np.finfo(float).tiny),
            rows=scaled.T,
            row_lower=np.full(k, -INFINITY),
            row_upper=np.full(k, INFINITY),
            lower=np.zeros(n),
            upper=np.full(n, max_weight),
        )

    def solve(self, thresholds: Float) -> Float:
        """Return the weights, (N,).

        Args:
            thresholds: α_k in [0, 1], (K,).

        Raises:
            InfeasibleError: if no weights meet the thresholds.
        """
        self._program.set_row_bounds(thresholds * self._sums, np.full(len(thresholds), INFINITY))
        try:
            return self._program.solve().x.clip(0, self._max_weight)
        except InfeasibleError as error:
            raise InfeasibleError(
                f"no weights in [0, {self._max_weight:g}] meet the thresholds {thresholds.round(4).tolist()}: lower "
                "them or raise max_weight"
            ) from error
