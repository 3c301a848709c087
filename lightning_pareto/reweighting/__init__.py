"""Sample weights by linear programming: an influence matrix in, weights out."""

from lightning_pareto.reweighting.reweight import reweight
from lightning_pareto.reweighting.weighted_dataset import WeightedDataset
from lightning_pareto.reweighting.weights import SampleWeights

__all__ = ["SampleWeights", "WeightedDataset", "reweight"]
