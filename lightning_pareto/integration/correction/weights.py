"""Weights that raise the categories that fell in an epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import lightning.pytorch as pl
import numpy as np

from lightning_pareto.arguments import checked_number
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.sharding import LostProcessError, OtherProcessError
from lightning_pareto.integration.analysis.run import AnalysisOptions, influence_of
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.processes import rank_zero_warn, shard_of
from lightning_pareto.pareto.admissible import check_budget
from lightning_pareto.reweighting.mass_preserving import GiveBack
from lightning_pareto.reweighting.reweight import reweight
from lightning_pareto.reweighting.weights import SampleWeights


@dataclass(frozen=True, kw_only=True)
class CorrectiveWeights:
    """How weights for a rerun are found; see :class:`CourseCorrection` for the fields.

    Raises:
        ValueError: for values out of range.
    """

    budget: float
    keep: float
    method: Literal["mass_preserving", "paper"]
    return_mass: GiveBack

    def __post_init__(self) -> None:
        check_budget(self.budget)
        checked_number(self.keep, "keep must be a share in [0, 1]", lambda x: 0 <= x <= 1)
        if self.method not in ("mass_preserving", "paper"):
            raise ValueError(f"method must be 'mass_preserving' or 'paper', found {self.method!r}")
        if self.return_mass not in ("additive", "multiplicative"):
            raise ValueError(f"return_mass must be 'additive' or 'multiplicative', found {self.return_mass!r}")

    def find(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        data: DataSource,
        options: AnalysisOptions,
        *,
        category_names: Sequence[str] | None,
        targets: Sequence[int],
    ) -> SampleWeights | None:
        """Estimate influence and solve for the weights. None, with a warning, if there are none.

        Args:
            trainer: at the state from which the weights will be used.
            module: the module of its fit.
            data: how batches are read.
            options: how to estimate influence.
            category_names: names of the categories; None for numbers.
            targets: numbers of the categories to raise.

        Raises:
            LostProcessError: if a process is gone, since the fit cannot continue without it.
        """
        try:
            influence = influence_of(trainer, module, data, options, category_names=category_names)
            with shard_of(trainer, module).agreement("search for weights"):
                return self.solve(influence, targets)
        except LostProcessError:
            raise
        except Exception as error:
            if trainer.is_global_zero or not isinstance(error, OtherProcessError):
                rank_zero_warn(f"CourseCorrection found no weights, and the fit continues without it: {error}")
            return None

    def solve(self, influence: InfluenceMatrix, targets: Sequence[int]) -> SampleWeights:
        """Solve for the weights.

        Raises:
            InfeasibleError: if the paper's linear program has no solution.
        """
        floors = floors_of_others(influence, targets, self.keep) if self.method == "mass_preserving" else self.keep
        return reweight(
            influence,
            targets=targets,
            thresholds=floors,
            budget=self.budget,
            method=self.method,
            return_mass=self.return_mass,
        )


def floors_of_others(influence: InfluenceMatrix, targets: Sequence[int], keep: float) -> list[float]:
    """Least relative gain of every category, (K,), so that all but the targets keep a share of the ordinary epoch.

    To first order, an ordinary epoch changes category k by (1/N) Σ_i u_i P_ik, with the user's sampling weights u, and
    one with weights w by (1/N) Σ_i w_i P_ik. If the first is a gain, the second has to be at least its share α: the
    paper's Σ_i w_i P_ik ≥ α Σ_i P_ik, if u = 1. With
    α = 0 a category may lose what the ordinary epoch would give it, but nothing of what it had before. If the first is
    a loss, it must not grow.

    Args:
        influence: at the state before the epoch.
        targets: numbers of the categories to raise, whose floor is 0.
        keep: α in [0, 1].
    """
    present = influence.present
    floors = np.zeros(len(present))
    scores = influence.scores[:, present].astype(np.float64)
    ordinary = influence.present_weights @ scores / len(scores)
    floors[present] = np.minimum((keep - 1) * ordinary / influence.scale[present], 0)
    floors[list(targets)] = 0
    found: list[float] = floors.tolist()
    return found
