"""The mass-preserving LP: move training mass within each class only."""

from typing import Literal

import numpy as np

from lightning_pareto.linprog import INFINITY, InfeasibleError, LinearProgram
from lightning_pareto.pareto.admissible import AdmissibleSet, Float

GiveBack = Literal["additive", "multiplicative"]


class MassPreservingProgram:
    """Maximise ``Σ_{t∈T} gain_t/s_t`` with ``gain_k/s_k ≥ floor_k`` over the admissible weights.

    The solver's model is kept: another call with other floors or another budget starts from the last basis.

    Args:
        scores: (N, K).
        scale: s_k, (K,).
        admissible: the weights allowed.
        targets: which categories are in T, (K,) bool.
    """

    def __init__(self, scores: np.ndarray, scale: Float, admissible: AdmissibleSet, targets: np.ndarray) -> None:
        self._samples, self._categories = scores.shape
        self._largest_sum = admissible.largest_sum
        slopes = admissible.slopes(scores) / scale
        self._program = LinearProgram(
            objective=slopes[:, targets].sum(axis=1),
            rows=np.vstack([slopes.T, np.ones((1, self._samples))]),
            row_lower=np.full(self._categories + 1, -INFINITY),
            row_upper=np.full(self._categories + 1, INFINITY),
            lower=np.zeros(self._samples),
            upper=np.ones(self._samples),
        )

    def solve(self, floors: Float, budget: float | None = None) -> Float:
        """Return the mass d taken from every sample, in [0, 1], (N,).

        Args:
            floors: least relative gain of every category, (K,).
            budget: largest share of the training mass that may be moved; that of the admissible set by default.

        Raises:
            InfeasibleError: if the floors cannot be met together.
        """
        largest_sum = self._largest_sum if budget is None else budget * self._samples
        lower = np.append(floors * self._samples, -INFINITY)
        self._program.set_row_bounds(lower, np.append(np.full(self._categories, INFINITY), largest_sum))
        try:
            return self._program.solve().x.clip(0, 1)
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
    emptied = class_mean_kept < 1e-9  # a class of which all is taken gets all of it back, whatever the rounding
    return np.divide(kept, class_mean_kept, out=np.ones_like(kept), where=~emptied)
