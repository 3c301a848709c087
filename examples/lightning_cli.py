"""A LightningCLI project: the callback, the weights and the course correction come from YAML alone.

    python examples/lightning_cli.py fit --config examples/configs/first_fit.yaml
    lightning-pareto reweight results/first_fit
    python examples/lightning_cli.py fit --config examples/configs/second_fit.yaml
    python examples/lightning_cli.py fit --config examples/configs/course_correction.yaml

The model and the data below do not use `lightning_pareto`. Each command takes a few seconds. Expected output: the first
fit prints "Pareto improvement possible: YES", because 30 % of the training labels are wrong. The second fit draws its
samples by weight. The third fit prints a line for every epoch that is rerun.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_pareto.datasets import gaussian_classes


class Classifier(pl.LightningModule):
    """A small network for points in the plane.

    Args:
        width: units of the hidden layer.
        classes: number of classes.
        lr: learning rate.
    """

    def __init__(self, width: int = 32, classes: int = 4, lr: float = 1e-2) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, classes))
        self.lr = lr

    def forward(self, x: Tensor) -> Any:
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Plane(pl.LightningDataModule):
    """Points of four classes in the plane.

    Args:
        samples: number of training samples.
        noise: share of wrong training labels.
        batch_size: batch size of training and validation.
    """

    def __init__(self, samples: int = 2000, noise: float = 0.3, batch_size: int = 64) -> None:
        super().__init__()
        self.train = gaussian_classes(samples, noise=noise, seed=0).dataset()
        self.val = gaussian_classes(1000, seed=1).dataset()
        self.batch_size = batch_size

    def train_dataloader(self) -> "DataLoader[Any]":
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> "DataLoader[Any]":
        return self._loader(self.val, shuffle=False)

    def _loader(self, data: Dataset[Any], shuffle: bool) -> "DataLoader[Any]":
        return DataLoader(data, self.batch_size, shuffle=shuffle)


def main() -> None:
    LightningCLI(
        Classifier,
        pl.LightningDataModule,
        subclass_mode_data=True,  # allows a ReweightedDataModule around a Plane
        save_config_kwargs={"overwrite": True},
    )


if __name__ == "__main__":
    main()
