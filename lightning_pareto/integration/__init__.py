"""Lightning: the only package that imports it."""

from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.correction import CourseCorrection
from lightning_pareto.integration.corrections import Correction
from lightning_pareto.integration.datamodule import ReweightedDataModule, reweighted_dataloader

__all__ = ["Correction", "CourseCorrection", "ParetoCallback", "ReweightedDataModule", "reweighted_dataloader"]
