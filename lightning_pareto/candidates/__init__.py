"""Ways to improve a fitted model without another fit, each to be judged on samples that it has not seen."""

from lightning_pareto.candidates.class_balanced import ClassBalanced
from lightning_pareto.candidates.evidence import Candidate, Evidence, InTurn
from lightning_pareto.candidates.head_refit import HeadRefit
from lightning_pareto.candidates.weighted_steps import WeightedSteps

__all__ = ["Candidate", "ClassBalanced", "Evidence", "HeadRefit", "InTurn", "WeightedSteps"]
