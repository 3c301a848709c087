"""The mass-preserving LP, which moves training mass only within each class."""

from dataclasses import replace
from typing import Literal

import numpy as np

from lightning_pareto.pareto.admissible import AdmissibleSet, Float
from lightning_pareto.pareto.sifting import MaxMinProgram

GiveBack = Literal["additive", "multiplicative"]


class MassPreservingProgram:
    """Maximise ``Σ_{t∈T} gain_t/s_t`` over the admissible weights, subject to ``gain_k/s_k ≥ floor_k``.

    The mean over T becomes an additional row of the max-min program, and its only target. The program is kept, so
    solving again with other floors or another budget starts from the last basis.

    Args:
        scores: influence P, (N, K).
        scale: s_k, (K,).
        admissible: the allowed weights.
        targets: which categories are in T, (K,) bool.
    """

    def __init__(self, scores: np.ndarray, scale: Float, admissible: AdmissibleSet, targets: np.ndarray) -> None:
        (self._samples, categories), self._admissible = scores.shape, admissible
        slopes = np.empty((self._samples, categories + 1))
        slopes[:, :-1] = admissible.slopes(scores)
        slopes[:, :-1] /= scale
        slopes[:, -1] = slopes[:, :-1] @ (targets / targets.sum())
        target = np.arange(categories + 1) == categories
        self._program = MaxMinProgram(slopes, admissible.capacity, target, top=admissible.present)

    def solve(self, floors: Float, budget: float | None = None) -> Float:
        """Return the mass d taken from each sample, in [0, u_i], (N,), with floors of the relative gains, (K,).

        A new budget also holds for later calls.

        Raises:
            FloorsError: if no admissible weights meet all floors.
        """
        capacity = None if budget is None else replace(self._admissible, budget=budget).capacity
        return self._program.solve(np.append(floors * self._samples, 0.0), capacity).removed


def give_back(removed: Float, admissible: AdmissibleSet, how: GiveBack) -> Float:
    """Return weights for the removed mass d that keep the mass of each class, (N,).

    Args:
        removed: d, (N,), see :class:`AdmissibleSet`.
        admissible: defines the classes.
        how: ``"additive"`` spreads the mass evenly over the class. ``"multiplicative"`` gives it to the remaining mass
            only, so that fully removed samples get nothing. Without earlier weights these are ``w_i = 1 − d_i + mean_j
            d_j`` and ``w_i = (1 − d_i) n_c / Σ_{j∈c} (1 − d_j)``.
    """
    return admissible.weights(removed) if how == "additive" else admissible.scaled(removed)
