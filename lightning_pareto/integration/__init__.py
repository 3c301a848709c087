"""Lightning: the only package that imports it."""

from lightning_pareto.integration.analyse import analyse
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.compare import compare_models
from lightning_pareto.integration.correction import Correction, CourseCorrection
from lightning_pareto.integration.datamodule import ReweightedDataModule, reweighted_dataloader
from lightning_pareto.integration.tuner import ParetoTuner

__all__ = [
    "Correction",
    "CourseCorrection",
    "ParetoCallback",
    "ParetoTuner",
    "ReweightedDataModule",
    "analyse",
    "compare_models",
    "reweighted_dataloader",
]
