"""Class-wise influence: dataloaders and a model in, an (N, K) matrix out.

How :func:`estimate_influence` works, with the modules that do it:

1. ``layers`` groups the parameters into layers. ``recorder`` records where a forward pass uses them, by the wrappers in
   ``functions``. ``operations`` turns each use into ``factors`` of per-sample gradients.
2. ``verification`` compares these gradients with autograd on a few samples, and makes the ``plan`` that ``gradients``
   follows.
3. ``passes`` runs over a dataset. ``directions`` computes the category gradients v_k, ``curvature`` solves for
   (H + λI)⁻¹ v_k, and ``directions`` takes the dot products with the gradient of every training sample.
4. ``stages`` saves results on the way, ``sharding`` splits the work over processes, ``memory`` limits the batches.
"""

from lightning_pareto.influence.averaging import average_influence
from lightning_pareto.influence.curvature import CurvatureError
from lightning_pareto.influence.estimate import estimate_influence
from lightning_pareto.influence.label_quality import label_quality
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
    "label_quality",
]
