"""Admissible weights: take from samples, give back evenly to their own class, keep the mass of every class.

    w_i = 1 − d_i + mean_{j: y_j = y_i} d_j,    0 ≤ d_i ≤ 1,    Σ_i d_i ≤ budget · N

The first-order gain of such weights is linear in d, with the scores centred within each class as its coefficients.
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
    """Raise a ValueError for a budget out of range."""
    what = "budget is the share of the training mass that may move, in (0, 1]"
    if not 0 < checked_number(budget, what) <= 1:
        raise ValueError(f"{what}, found {budget}")


@dataclass(frozen=True, eq=False)
class AdmissibleSet:
    """The admissible weights of a training set.

    Attributes:
        labels: (N,) class of every training sample.
        budget: largest share of the training mass that may be moved, in [0, 1].
    """

    labels: npt.NDArray[np.int64]
    budget: float

    @property
    def capacity(self) -> float:
        """Upper bound of Σ_i d_i, the budget as a number of samples."""
        return self.budget * len(self.labels)

    def slopes(self, scores: npt.NDArray[np.floating]) -> Float:
        """N times the gain of every category for a unit of each d_i, (N, K): class mean minus own score."""
        exact: Float = scores.astype(np.float64)
        return self._class_means(exact) - exact

    def weights(self, removed: Float) -> Float:
        """Weights w for removed mass d, (N,)."""
        return 1 - removed + self._class_means(removed[:, None])[:, 0]

    def _class_means(self, values: Float) -> Float:
        position, average = self._classes
        means: Float = (average @ values)[position]
        return means

    @functools.cached_property
    def _classes(self) -> tuple[npt.NDArray[np.intp], sparse.csr_array]:
        """Class number of every sample, (N,), and the matrix that averages over each class, (classes, N)."""
        _, position, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        where = (position, np.arange(len(position)))
        return position, sparse.csr_array((1 / counts[position], where), shape=(len(counts), len(position)))
