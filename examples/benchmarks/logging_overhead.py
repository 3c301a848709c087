"""How much time does logging class-wise metrics add to an epoch?

    python examples/benchmarks/logging_overhead.py --pairs 20

Runs one fit in which the callback is active in half of the epochs. Two neighbouring epochs form a pair, one with the
callback and one without, and the order alternates. Each pair gives one difference. Times are the CPU time of this
process, so that other programs hardly disturb them. Prints the seconds of a plain epoch and the share that logging
adds, ± standard error over the pairs, for each metric and number of classes. The table in README.md was made with
``--pairs 6``.
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
    """Three convolutions on 28 × 28 images."""

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


class AlternatingCallback(pl.Callback):
    """Activates another callback in half of the epochs, and measures the time of every epoch."""

    def __init__(self, other: pl.Callback) -> None:
        self.other = other
        self.seconds: list[float] = []
        self.logged: list[bool] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        active = trainer.current_epoch % 4 in (1, 2)
        self.logged.append(active)
        trainer.callbacks = [self, *([self.other] if active else [])]  # type: ignore[attr-defined]
        self._start = time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds.append(time.process_time() - self._start)


def measure(classes: int, metrics: Any, pairs: int) -> tuple[float, float, float]:
    """Seconds of a plain epoch, the share of it that logging adds, and the standard error of the share."""
    torch.manual_seed(0)
    x, y = torch.randn(10_000, 1, 28, 28), torch.randint(0, classes, (10_000,))
    train, val = TensorDataset(x[:8000], y[:8000]), TensorDataset(x[8000:], y[8000:])
    timer = AlternatingCallback(ParetoCallback(analyse=False, metrics=metrics))
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=2 * pairs + 2,
            callbacks=[timer],
            logger=CSVLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(Net(classes), DataLoader(train, batch_size=64, shuffle=True), DataLoader(val, batch_size=64))
    seconds, logged = np.array(timer.seconds[2:]).reshape(-1, 2), np.array(timer.logged[2:]).reshape(-1, 2)
    plain = seconds[~logged]
    shares = (seconds[logged] - plain) / plain.mean()
    return float(plain.mean()), float(shares.mean()), float(shares.std(ddof=1) / np.sqrt(pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of epochs")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 200], help="numbers of classes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print("classes  metrics                       epoch, s   added by logging")
    for classes in options.classes:
        cases: dict[str, Any] = {
            "accuracy": ["accuracy"],
            "all four": ["accuracy", "precision", "recall", "f1"],
            "accuracy, torchmetrics": {
                "accuracy": "accuracy",
                "specificity": MulticlassSpecificity(classes, average=None),
            },
        }
        for title, metrics in cases.items():
            seconds, share, error = measure(classes, metrics, options.pairs)
            print(f"{classes:7d}  {title:<28}  {seconds:8.2f}   {share:+6.2%} ± {error:.2%}", flush=True)


if __name__ == "__main__":
    main()
