"""Class-wise influence: dataloaders and a model in, an (N, K) matrix out."""

from lightning_pareto.influence.averaging import average_influence
from lightning_pareto.influence.curvature import CurvatureError
from lightning_pareto.influence.estimate import estimate_influence
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.influence.stages import StagesError
from lightning_pareto.influence.task import BatchError, ClassificationTask

__all__ = [
    "BatchError",
    "ClassificationTask",
    "CurvatureError",
    "InfluenceMatrix",
    "Shard",
    "StagesError",
    "average_influence",
    "estimate_influence",
]
