"""Admissible weights: mass d_i is taken from samples and given back evenly to their class.

    w_i = 1 − d_i + mean_{j: y_j = y_i} d_j,    0 ≤ d_i ≤ 1,    Σ_i d_i ≤ budget · N

Each class keeps its training mass. The first-order gain of the weights is linear in d, and its coefficients are the
influence scores, centred within each class.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lightning_pareto.arguments import checked_number

Float = npt.NDArray[np.float64]

DEFAULT_BUDGET = 0.2


def check_budget(budget: float) -> None:
    """Raise a ValueError if the budget is out of range."""
    checked_number(budget, "budget must be a share of the training mass in (0, 1]", lambda share: 0 < share <= 1)


@dataclass(frozen=True, eq=False)
class AdmissibleSet:
    """The set of admissible weights of a training set.

    Attributes:
        labels: class of each training sample, (N,).
        budget: share of the training mass that may move, in [0, 1].
    """

    labels: npt.NDArray[np.int64]
    budget: float

    @property
    def capacity(self) -> float:
        """Upper bound of Σ_i d_i: the budget as a number of samples."""
        return self.budget * len(self.labels)

    def slopes(self, scores: npt.NDArray[np.floating]) -> Float:
        """Class mean minus own score, (N, K): N times each category's gain per unit of d_i."""
        exact = scores.astype(np.float64)
        return self._class_means(exact) - exact

    def weights(self, removed: Float) -> Float:
        """Weights w for the removed mass d, (N,)."""
        return 1 - removed + self._class_means(removed[:, None])[:, 0]

    def _class_means(self, values: Float) -> Float:
        position, average = self._classes
        means: Float = (average @ values)[position]
        return means

    @functools.cached_property
    def _classes(self) -> tuple[npt.NDArray[np.intp], sparse.csr_array]:
        """Class index of each sample, (N,), and a matrix that averages over each class, (classes, N)."""
        _, position, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        where = (position, np.arange(len(position)))
        return position, sparse.csr_array((1 / counts[position], where), shape=(len(counts), len(position)))
