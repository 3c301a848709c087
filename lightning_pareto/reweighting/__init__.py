"""Sample weights by linear programming: an influence matrix in, weights out; and what came of them."""

from lightning_pareto.reweighting.reweight import reweight
from lightning_pareto.reweighting.search_result import ParetoResult, TrialSummary
from lightning_pareto.reweighting.weights import SampleWeights

__all__ = ["ParetoResult", "SampleWeights", "TrialSummary", "reweight"]
