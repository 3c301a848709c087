"""What logging class-wise metrics costs: epochs of one fit, with and without the callback in turn.

Processor time of this process, so that other programs hardly disturb it. Each pair of neighbouring epochs gives one
difference, and which of the two has the callback alternates.

    python examples/benchmarks/logging_overhead.py --pairs 20
"""

import argparse
import logging
import tempfile
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassSpecificity

from lightning_pareto import ParetoCallback


class Net(pl.LightningModule):
    """Three convolutions for 28 × 28 images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        channels = (1, 8, 16, 32)
        convolutions = [
            part
            for i in range(3)
            for part in (nn.Conv2d(channels[i], channels[i + 1], 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        ]
        self.network = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 9, classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class InTurn(pl.Callback):
    """Takes another callback out of every second epoch, and times them all."""

    def __init__(self, other: pl.Callback) -> None:
        self.other = other
        self.seconds: list[float] = []
        self.logged: list[bool] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with_it = trainer.current_epoch % 4 in (1, 2)
        self.logged.append(with_it)
        trainer.callbacks = [self, *([self.other] if with_it else [])]  # type: ignore[attr-defined]
        self._start = time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds.append(time.process_time() - self._start)


def measure(classes: int, metrics: Any, pairs: int) -> tuple[float, float, float]:
    """Seconds of a plain epoch, and of it the share that logging adds, with its standard error."""
    torch.manual_seed(0)
    x, y = torch.randn(10_000, 1, 28, 28), torch.randint(0, classes, (10_000,))
    train, val = TensorDataset(x[:8000], y[:8000]), TensorDataset(x[8000:], y[8000:])
    turns = InTurn(ParetoCallback(analyse=False, metrics=metrics))
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=2 * pairs + 2,
            callbacks=[turns],
            logger=CSVLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(Net(classes), DataLoader(train, batch_size=64, shuffle=True), DataLoader(val, batch_size=64))
    seconds, logged = np.array(turns.seconds[2:]).reshape(-1, 2), np.array(turns.logged[2:]).reshape(-1, 2)
    plain, other = seconds[~logged], seconds[logged]
    shares = (other - plain) / plain.mean()
    return float(plain.mean()), float(shares.mean()), float(shares.std(ddof=1) / np.sqrt(pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 200])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print("classes  metrics                       epoch, s   added by logging")
    for classes in arguments.classes:
        own = {"accuracy": "accuracy", "specificity": MulticlassSpecificity(classes, average=None)}
        every = ("accuracy", "precision", "recall", "f1")
        for title, metrics in (("accuracy", ("accuracy",)), ("all four", every), ("accuracy, torchmetrics", own)):
            seconds, share, error = measure(classes, metrics, arguments.pairs)
            print(f"{classes:7d}  {title:<28}  {seconds:8.2f}   {share:+6.2%} ± {error:.2%}", flush=True)


if __name__ == "__main__":
    main()
