"""The paper's LP, as published."""

import numpy as np

from lightning_pareto.influence.gains import column_scale
from lightning_pareto.linprog import INFINITY, LinearProgram
from lightning_pareto.pareto.admissible import Float


class PaperProgram:
    """Maximise ``Σ_i w_i Σ_{t∈T} P_it`` subject to ``Σ_i w_i P_ik ≥ α_k Σ_i u_i P_ik`` and ``0 ≤ w_i ≤ w_max``.

    This LP moves mass freely between classes. Without the paper's search over α, it lost tens of points on single
    classes in measurements (see the README's limits). It is here for comparison and for that search. The program is
    kept, so solving again with other thresholds starts from the last basis.

    Args:
        scores: influence P, (N, K).
        targets: which categories are in T, (K,) bool.
        max_weight: w_max ≥ 1.
        present: the weights u that the model was fitted with, (N,). The paper has none: u = 1.

    Source: arXiv:2510.03950, the linear program inside PARETO-LP-GA.
    """

    def __init__(
        self, scores: np.ndarray, targets: np.ndarray, max_weight: float, present: Float | float = 1.0
    ) -> None:
        scores = scores.astype(np.float64)
        scale = column_scale(scores)
        scaled = scores / scale
        self._scaled, self._max_weight = scaled, max_weight
        self._sums = (scaled * np.reshape(present, (-1, 1))).sum(axis=0)
        objective = scaled[:, targets] @ scale[targets] / scale[targets].mean()
        self._program = self._program_for(objective)

    def solve(self, thresholds: Float) -> Float:
        """Return the weights, (N,), for thresholds α_k in [0, 1], (K,).

        Raises:
            InfeasibleError: if no weights meet the thresholds.
        """
        self._program.set_row_bounds(thresholds * self._sums, np.full(len(thresholds), INFINITY))
        return self._program.solve().x.clip(0, self._max_weight)

    def out_of_reach(self, thresholds: Float) -> tuple[int, str]:
        """Find the first threshold that cannot be met together with those before it.

        Returns:
            Index of its category, and a text that says which thresholds are possible. That is an upper bound if the
            category's influence has a positive sum, a lower bound if it is negative, and none if it is zero.
        """
        held = np.full(len(thresholds), -INFINITY)
        for category, (threshold, total) in enumerate(zip(thresholds, self._sums, strict=True)):
            program = self._program_for(self._scaled[:, category])
            program.set_row_bounds(held, np.full(len(held), INFINITY))
            largest = program.solve().objective
            if largest < threshold * total:
                break
            held[category] = threshold * total
        if total == 0:
            return category, "none, as its influence sums to zero,"
        bound = "at most" if total > 0 else "at least"
        return category, f"{bound} {largest / total:.4g}"

    def _program_for(self, objective: Float) -> LinearProgram:
        n, k = self._scaled.shape
        return LinearProgram(
            objective=objective,
            rows=self._scaled.T,
            row_lower=np.full(k, -INFINITY),
            row_upper=np.full(k, INFINITY),
            lower=np.zeros(n),
            upper=np.full(n, self._max_weight),
        )
