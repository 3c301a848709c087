"""The main job with several processes: they share the work of the analysis, and all get the same verdict.

    python examples/ddp.py [--devices 2]

Takes about twenty seconds on a CPU. The code is the same as for one process. The weighted sampler gives each
process its share of one weighted draw. Expected output: the verdict, printed once. Then the accuracy of the worst class
after an ordinary second fit and after one with weights.
"""

import argparse
import tempfile
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from main_job import Classifier, Images, quiet
from torch import nn

from lightning_pareto import ParetoCallback, ReweightedDataModule, reweight
from lightning_pareto.datasets import gaussian_classes


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 4))


def fit(datamodule: pl.LightningDataModule, callback: ParetoCallback, options: dict[str, Any]) -> float:
    """Fit from scratch. Returns the accuracy of the worst class."""
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(**options, callbacks=[callback])
    trainer.fit(Classifier(network(), lr=1e-2), datamodule=datamodule)
    return float(trainer.callback_metrics["val_accuracy_worst"])


@rank_zero_only
def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    devices = parser.parse_args().devices
    torch.set_num_threads(1)
    quiet()
    train, validation = gaussian_classes(2000, noise=0.3, seed=0), gaussian_classes(1000, seed=1)
    data = Images(train.dataset(), validation.dataset(), batch_size=64)
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "max_epochs": 10,
            "accelerator": "cpu",
            "devices": devices,
            "strategy": "ddp" if devices > 1 else "auto",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": False,
            "default_root_dir": folder,
        }
        pareto = ParetoCallback(budget=0.3)
        ordinary = fit(data, pareto, options)
        weights = reweight(pareto.influence)  # the same on every process
        weighted = fit(ReweightedDataModule(data, weights), ParetoCallback(analyse=False), options)
    say(f"worst class: {ordinary:.1%} after the ordinary fit, {weighted:.1%} after the fit with weights")


if __name__ == "__main__":
    main()
