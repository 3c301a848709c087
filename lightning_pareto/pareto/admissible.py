"""Admissible weights: mass d_i is taken from samples and given back evenly to their class.

    w_i = u_i − d_i + mean_{j: y_j = y_i} d_j,    0 ≤ d_i ≤ u_i,    Σ_i d_i ≤ budget · N − Σ_i max(m_i − u_i, 0)

The change starts from the present weights u of mean 1, those that the model was fitted with: u = 1 if there were none.
With m_i, the mean of u over the class of i, the last sum is what earlier weights have taken. So the budget bounds what
is taken in all rounds of reweighting together.

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
        weights_of_fit: the present weights u, (N,) with mean 1. None stands for equal weights.
    """

    labels: npt.NDArray[np.int64]
    budget: float
    weights_of_fit: Float | None = None

    @property
    def capacity(self) -> float:
        """Upper bound of Σ_i d_i: what is left of the budget, as a number of samples."""
        return max(self.budget - self.moved, 0.0) * len(self.labels)

    @property
    def moved(self) -> float:
        """Share of the training mass that earlier weights have taken from samples."""
        return float(np.maximum(self._mean_of_class(self.present) - self.present, 0).mean())

    @functools.cached_property
    def present(self) -> Float:
        """The present weights u, (N,), which are also the largest d."""
        return np.ones(len(self.labels)) if self.weights_of_fit is None else self.weights_of_fit

    def slopes(self, scores: npt.NDArray[np.floating]) -> Float:
        """Class mean minus own score, (N, K): N times each category's gain per unit of d_i."""
        exact = scores.astype(np.float64)
        return self._class_means(exact) - exact

    def weights(self, removed: Float) -> Float:
        """Weights w for the removed mass d, (N,)."""
        return self.present - removed + self._mean_of_class(removed)

    def scaled(self, removed: Float) -> Float:
        """Weights for the removed mass d that give it back to the mass that remains, (N,).

        ``w_i = (u_i − d_i) · mean_j u_j / mean_j (u_j − d_j)``. A class that loses all its mass keeps its weights.
        """
        kept, before = self.present - removed, self._mean_of_class(self.present)
        left = self._mean_of_class(kept)
        weights: Float = np.divide(kept * before, left, out=self.present.copy(), where=left >= 1e-9)  # despite rounding
        return weights

    def _mean_of_class(self, values: Float) -> Float:
        """Mean over each sample's class, (N,)."""
        return self._class_means(values[:, None])[:, 0]

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
