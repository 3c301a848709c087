"""Options that change the numbers of an influence estimate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_pareto.arguments import checked_count, checked_number
from lightning_pareto.influence.curvature import FisherName
from lightning_pareto.influence.measures import MeasureName, get_measure
from lightning_pareto.influence.task import cross_entropy

CurvatureName = Literal["ekfac", "cg", "gauss_newton", "identity"]


@dataclass(frozen=True, kw_only=True)
class InfluenceOptions:
    """Options of :func:`estimate_influence` that change its numbers. They are stored in the result's metadata."""

    curvature: CurvatureName = "ekfac"
    measure: MeasureName = "loss"
    damping: float = 0.1
    folds: int = 8
    seed: int = 0
    layers: Sequence[str] | None = None
    fisher: FisherName | None = None
    curvature_samples: int | None = 10_000
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        get_measure(self.measure, cross_entropy)  # checks the name
        if self.curvature not in get_args(CurvatureName):
            raise ValueError(f"curvature must be one of {get_args(CurvatureName)}, found {self.curvature!r}")
        if self.fisher is not None and self.fisher not in get_args(FisherName):
            raise ValueError(f"fisher must be one of {get_args(FisherName)}, found {self.fisher!r}")
        if self.curvature in ("gauss_newton", "identity") and self.fisher is not None:
            raise ValueError(f'fisher is an option of "ekfac" and "cg"; leave it out with {self.curvature!r}')
        expected = "damping must be > 0 (a share of the mean eigenvalue)"
        if not checked_number(self.damping, expected) > 0:
            raise ValueError(f"{expected}, found {self.damping}")
        checked_count(self.folds, "folds must be an integer ≥ 1", least=1)
        checked_count(self.seed, "seed must be an integer ≥ 0")
        if self.curvature_samples is not None:
            checked_count(self.curvature_samples, "curvature_samples must be an integer ≥ 1, or None for all", least=1)
        expected = "tolerance must be in (0, 1) (a relative residual)"
        if not 0 < checked_number(self.tolerance, expected) < 1:
            raise ValueError(f"{expected}, found {self.tolerance}")
        if isinstance(self.layers, str):
            raise ValueError(f"layers must be a list of shell patterns, found a string: layers=[{self.layers!r}]")

    @property
    def resolved_fisher(self) -> FisherName:
        """The Fisher information to use, with the default filled in.

        One draw of labels per sample is enough to scale EK-FAC's eigenbasis. Used directly as H, its rank is at most
        the number of samples. On digits, conjugate gradients with the sampled Fisher information predicted
        leave-one-out retraining with a rank correlation of 0.6, and with the exact one of 1.0.
        """
        return self.fisher or ("exact" if self.curvature == "cg" else "sampled")
