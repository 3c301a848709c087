"""Ways to a better model, by other parameters or by weights for a fit, each judged on samples that it has not seen."""

from lightning_pareto.candidates.class_balanced import ClassBalanced
from lightning_pareto.candidates.evidence import Candidate, Evidence, InTurn
from lightning_pareto.candidates.head_refit import HeadRefit
from lightning_pareto.candidates.weighted_steps import WeightedSteps

__all__ = ["Candidate", "ClassBalanced", "Evidence", "HeadRefit", "InTurn", "WeightedSteps"]
