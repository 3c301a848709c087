"""Options of an influence estimate: what to compute, how to read batches, and how to run."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy.typing as npt

from lightning_pareto.arguments import checked_count, checked_number
from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.curvature import FisherName
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.influence.passes import Progress, silent
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.influence.task import ClassificationTask

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
    truncation: float = 0.01

    def __post_init__(self) -> None:
        for name, kind in (("curvature", CurvatureName), ("measure", MeasureName), ("fisher", FisherName)):
            value = getattr(self, name)
            if value not in get_args(kind) and (name, value) != ("fisher", None):
                raise ValueError(f"{name} must be one of {get_args(kind)}, found {value!r}")
        if self.curvature in ("gauss_newton", "identity") and self.fisher is not None:
            raise ValueError(f'fisher is an option of "ekfac" and "cg"; leave it out with {self.curvature!r}')
        checked_number(self.damping, "damping must be > 0 (a share of the mean eigenvalue)", lambda x: x > 0)
        checked_count(self.folds, "folds must be an integer ≥ 1", least=1)
        checked_count(self.seed, "seed must be an integer ≥ 0")
        if self.curvature_samples is not None:
            checked_count(self.curvature_samples, "curvature_samples must be an integer ≥ 1, or None for all", least=1)
        checked_number(self.tolerance, "tolerance must be in (0, 1) (a relative residual)", lambda x: 0 < x < 1)
        checked_number(self.truncation, "truncation must be in [0, 1) (a share of the energy)", lambda x: 0 <= x < 1)
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


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read samples and their categories from batches, see :func:`estimate_influence`."""

    task: ClassificationTask = field(default_factory=ClassificationTask)
    categories: Categories | None = None
    category_names: Sequence[str] | None = None
    weights: npt.ArrayLike | None = None


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How the passes over the data run, see :func:`estimate_influence`.

    It affects the numbers only by rounding, except that ``max_memory`` changes what is truncated together.
    """

    shard: Shard = field(default_factory=Shard)
    transfer: Callable[[Any], Any] | None = None
    val_transfer: Callable[[Any], Any] | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    progress: Progress = silent
    max_memory: float | None = None
    stages_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.max_memory is not None:
            checked_number(self.max_memory, "max_memory must be > 0 (a limit in GiB)", lambda x: x > 0)
