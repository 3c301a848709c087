"""An ordinary Lightning project with the ten lines that this package adds to it (marked with <-).

    python examples/existing_project.py

Takes about ten seconds. Expected output: "Pareto improvement possible: YES", because 30 % of the training labels are
wrong. Then the validation accuracy of the worst class after both fits, about two points higher after the second.
"""

import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_pareto import ParetoCallback, ReweightedDataModule, reweight  # <-
from lightning_pareto.datasets import gaussian_classes


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, x: Tensor) -> Any:
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Plane(pl.LightningDataModule):
    def train_dataloader(self) -> "DataLoader[Any]":
        return DataLoader(gaussian_classes(1500, noise=0.3, seed=0).dataset(), batch_size=32, shuffle=True)

    def val_dataloader(self) -> "DataLoader[Any]":
        return DataLoader(gaussian_classes(1000, seed=1).dataset(), batch_size=500)


def main(folder: str) -> None:
    options: dict[str, Any] = {
        "max_epochs": 30,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "default_root_dir": folder,
    }
    pl.seed_everything(0, verbose=False)
    pareto = ParetoCallback(budget=0.3)  # <-
    trainer = pl.Trainer(**options, callbacks=[pareto])  # <-
    trainer.fit(Classifier(), datamodule=Plane())
    print(f"first fit: worst class {trainer.callback_metrics['val_accuracy_worst']:.1%}")  # <-

    if pareto.verdict.answer == "yes":  # <-
        pl.seed_everything(0, verbose=False)
        weights = reweight(pareto.influence, return_mass="multiplicative")  # <-
        weights.save(Path(folder) / "weights.safetensors")  # <-
        trainer = pl.Trainer(**options, callbacks=[ParetoCallback(analyse=False)])  # <-
        trainer.fit(Classifier(), datamodule=ReweightedDataModule(Plane(), weights))  # <-
        print(f"second fit: worst class {trainer.callback_metrics['val_accuracy_worst']:.1%}")  # <-


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
