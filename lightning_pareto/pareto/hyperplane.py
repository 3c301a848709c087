"""The paper's diagnostics: do the influence vectors lie on a trade-off hyperplane?"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pareto.pareto.admissible import Float


@dataclass(frozen=True, eq=False)
class Regions:
    """Region of each training sample.

    Attributes:
        sign: +1 for jointly beneficial (all P_ik > 0), −1 for jointly harmful (all P_ik < 0), 0 for a trade-off, (N,).
    """

    sign: npt.NDArray[np.int8]

    def __post_init__(self) -> None:
        if self.sign.ndim != 1 or not self.sign.size:
            raise ValueError(f"sign must be a vector (N,) with N ≥ 1, found shape {self.sign.shape}")

    @property
    def beneficial(self) -> float:
        """Share of jointly beneficial samples."""
        return float((self.sign > 0).mean())

    @property
    def harmful(self) -> float:
        """Share of jointly harmful samples."""
        return float((self.sign < 0).mean())

    @property
    def trade_off(self) -> float:
        """Share of samples that help some categories and harm others."""
        return float((self.sign == 0).mean())


def regions(scores: npt.NDArray[np.floating]) -> Regions:
    """Assign each sample to one of the three regions by the signs of its scores, (N, K)."""
    return Regions(((scores > 0).all(axis=1).astype(np.int8) - (scores < 0).all(axis=1)).astype(np.int8))


def explained_variance_ratio(scores: npt.NDArray[np.floating]) -> Float:
    """Share of the variance along each principal axis of the influence vectors, in decreasing order, (K,)."""
    centred = scores.astype(np.float64) - scores.mean(axis=0, dtype=np.float64)
    variance = np.linalg.eigvalsh(centred.T @ centred)[::-1].clip(min=0)
    total = variance.sum()
    return variance / total if total > 0 else variance


def hyperplane_distance(scores: npt.NDArray[np.floating]) -> float:
    """Root mean square share of the influence vectors along (1, …, 1), in [0, 1].

    It is 0 if all vectors are on the hyperplane Σ_k P_ik = 0, where one category only gains what others lose.
    """
    scores = scores.astype(np.float64)
    along = scores.sum(axis=1) ** 2 / scores.shape[1]
    length = (scores**2).sum()
    return float(np.sqrt(along.sum() / length)) if length > 0 else 0.0


def correlation(scores: npt.NDArray[np.floating]) -> Float:
    """Correlation between categories, (K, K). NaN for a column without variance, and for a single sample."""
    if len(scores) == 1:
        return np.full((scores.shape[1], scores.shape[1]), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Float = np.corrcoef(scores.astype(np.float64), rowvar=False).reshape(scores.shape[1], scores.shape[1])
    return found
