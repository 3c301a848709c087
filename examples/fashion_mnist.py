"""The main job on Fashion-MNIST with a small convolutional network, label noise or imbalance, and several seeds.

    python examples/fashion_mnist.py --noise 0.3 --seeds 5
    python examples/fashion_mnist.py --noise 0 --imbalance 0.2 --samples 20000 --devices 2

Prints the verdict and how well influence finds the flipped labels, for every seed. Then prints the accuracy per class
on the 10,000 test images, which no decision uses: after the first fit, an ordinary second fit, an ordinary fit on
training and validation data together, and the Pareto second fit. Each fit is at its best epoch by validation.
"""

import argparse
import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from main_job import Job, Split, flip_labels, quiet, run
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_pareto import ClasswiseComparison, plot_comparison

CLASSES = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HELP = """Fashion-MNIST not found{where}. To get it, use one of these:

    apt-get install dataset-fashion-mnist           # Debian and Ubuntu
    pip install torchvision                         # downloads it, needs internet access
    python examples/fashion_mnist.py --data FOLDER  # a folder with train-images-idx3-ubyte.gz and so on"""


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def read_idx(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28), standardised, and labels (N,)."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return _standardised(torch.tensor(pixels)), torch.tensor(labels, dtype=torch.int64)


def _standardised(pixels: Tensor) -> Tensor:
    return (pixels.float() / 255 - 0.2860) / 0.3530


def load(folder: Path | None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test data from a folder, from Debian's package or from torchvision."""
    folder = folder or DEBIAN
    if (folder / "train-images-idx3-ubyte.gz").exists():
        return read_idx(folder, "train"), read_idx(folder, "t10k")
    if folder != DEBIAN:
        sys.exit(HELP.format(where=f" in {folder}"))
    try:
        from torchvision.datasets import FashionMNIST
    except ImportError:
        sys.exit(HELP.format(where=""))
    cache = Path.home() / ".cache" / "lightning_pareto"
    try:
        parts = [FashionMNIST(cache, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        sys.exit(HELP.format(where=f" and the download failed ({error})"))
    train, test = ((_standardised(part.data[:, None]), part.targets) for part in parts)
    return train, test


def make_split(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int, options: argparse.Namespace
) -> Split:
    """Draw training and validation images. In the training data, thin out the even classes and flip labels."""
    x, y = train
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    chosen, val = order[: options.samples], order[options.samples :][: options.val_samples]
    thin = (y[chosen] % 2 == 0) & (torch.rand(len(chosen), generator=generator) < options.imbalance)
    chosen = chosen[~thin]
    given, flipped = flip_labels(y[chosen], options.noise, 10, generator)
    return Split(
        train=TensorDataset(x[chosen], given),
        val=TensorDataset(x[val], y[val]),
        test=TensorDataset(*test),
        flipped=flipped,
        class_names=CLASSES,
    )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the four idx files")
    parser.add_argument("--noise", type=float, default=0.3, help="share of flipped training labels")
    parser.add_argument("--imbalance", type=float, default=0.0, help="share of every second class to leave out")
    parser.add_argument("--samples", type=int, default=12_000, help="training images")
    parser.add_argument("--val-samples", type=int, default=2_000, help="validation images")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="the first seed")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of every fit")
    parser.add_argument("--budget", type=float, default=0.3, help="share of the training mass that may move")
    parser.add_argument("--devices", type=int, default=1, help="processes (CPU) or GPUs")
    parser.add_argument("--picture", help="where to save a picture of the result")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    quiet()
    train, test = load(options.data)
    trainer = {"devices": options.devices, "strategy": "ddp" if options.devices > 1 else "auto"}
    job = Job(network, options.epochs, batch_size=128, lr=3e-3, budget=options.budget, trainer=trainer)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    comparison = run(job, lambda seed: make_split(train, test, seed, options), seeds)
    if options.picture:
        save(comparison, options.picture)


@rank_zero_only
def save(comparison: ClasswiseComparison, path: str) -> None:
    figure, _ = plot_comparison(comparison)
    figure.savefig(path, dpi=150)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
