"""The main job on scikit-learn's digits with 30 % of the training labels flipped. Under two minutes on 2 cores.

Prints the verdict of the first seed, then the accuracy per class on test data that no decision used: after the first
fit, an ordinary second fit, an ordinary fit on training and validation data together, and the Pareto second fit. Each
fit is at its best epoch by validation.

    python examples/quickstart.py [--seeds 5] [--noise 0.3] [--picture digits.png]
"""

import argparse

import torch
from main_job import Job, Split, flip_labels, quiet, run
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from lightning_pareto import plot_comparison


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def digits(seed: int, noise: float) -> Split:
    """1,000 training, 300 validation and 497 test images of 8 × 8 pixels."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    train, val, test = torch.randperm(len(y), generator=generator).split([1000, 300, 497])
    given, flipped = flip_labels(y[train], noise, 10, generator)
    return Split(
        train=TensorDataset(x[train], given),
        val=TensorDataset(x[val], y[val]),
        test=TensorDataset(x[test], y[test]),
        flipped=flipped,
        class_names=[str(digit) for digit in range(10)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--noise", type=float, default=0.3, help="share of flipped training labels")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of every fit")
    parser.add_argument("--picture", help="where to save a picture of the result")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the network is so small that a second thread slows it down
    quiet()

    job = Job(network, epochs=options.epochs, batch_size=64, lr=5e-3, budget=0.3)
    comparison = run(job, lambda seed: digits(seed, options.noise), range(options.seeds))
    if options.picture:
        figure, _ = plot_comparison(comparison)
        figure.savefig(options.picture, dpi=150)
        print(f"picture: {options.picture}")


if __name__ == "__main__":
    main()
