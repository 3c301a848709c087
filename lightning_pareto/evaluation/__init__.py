"""Which validation samples a model gets right, how two models compare, and what a second fit achieved."""

from lightning_pareto.evaluation.change import ClasswiseChange
from lightning_pareto.evaluation.comparison import ClasswiseComparison
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.evaluation.result import ParetoResult, TrialSummary

__all__ = ["ClasswiseChange", "ClasswiseComparison", "Outcome", "ParetoResult", "TrialSummary"]
