"""Lightning: the only package that imports it."""

from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.datamodule import ReweightedDataModule, reweighted_dataloader

__all__ = ["ParetoCallback", "ReweightedDataModule", "reweighted_dataloader"]
