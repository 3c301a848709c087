"""Does influence predict how the loss of each class changes when samples are removed and the network is trained again?

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/influence_fidelity.py

Uses scikit-learn's digits with a tenth of the training labels flipped, and a small convolutional network. Two studies:

1. *Group removal.* For each class, remove the tenth of the training samples that helps it most, or the tenth that harms
   it most. Train again over several seeds. Compare the measured changes of every class's validation loss with the
   predicted ones, by rank correlation over all groups.
2. *Linear datamodelling score.* The same for random halves of the training set. If kronfluence is installed
   (``pip install kronfluence torchvision``), its score on the same subsets is printed too.

Predictions come from one model and from the average over the models of all seeds. Expected: the average predicts group
removal with a rank correlation above 0.8. Takes ten minutes on one core.
"""

import argparse
import importlib.util
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from influence_speed import kronfluence_scores
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto import average_influence, estimate_influence

CLASSES = 10


def data(noise: float) -> tuple[TensorDataset, TensorDataset]:
    """Training set with flipped labels, and validation set."""
    digits = load_digits()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(digits.target), generator=generator)
    x = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(digits.target)[order]
    given = y.clone()
    flipped = torch.rand(len(y), generator=generator) < noise
    given[flipped] = (y[flipped] + torch.randint(1, CLASSES, (int(flipped.sum()),), generator=generator)) % CLASSES
    return TensorDataset(x[:1_000], given[:1_000]), TensorDataset(x[1_000:], y[1_000:])


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.ReLU(),
        nn.Linear(32, CLASSES),
    )


def fit(train: TensorDataset, keep: Tensor, seed: int, epochs: int) -> nn.Module:
    """Train on the kept samples. The seed fixes the initial weights and the order, whichever samples are removed."""
    torch.manual_seed(seed)
    model = net()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    x, y = train.tensors
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(50):
            batch = batch[keep[batch]]
            optimiser.zero_grad()
            (F.cross_entropy(model(x[batch]), y[batch], reduction="sum") / 50).backward()
            optimiser.step()
        schedule.step()
    return model


@torch.no_grad()
def class_losses(model: nn.Module, val: TensorDataset) -> np.ndarray:
    """Mean loss of each class, (K,)."""
    x, y = val.tensors
    losses = F.cross_entropy(model(x), y, reduction="none")
    return np.array([float(losses[y == k].mean()) for k in range(CLASSES)])


def retrained_losses(train: TensorDataset, val: TensorDataset, keep: Tensor, seeds: int, epochs: int) -> np.ndarray:
    """Loss of each class after training on the kept samples, mean over the seeds, (K,)."""
    losses = [class_losses(fit(train, keep, seed, epochs), val) for seed in range(seeds)]
    mean: np.ndarray = np.array(losses).mean(axis=0)
    return mean


def predicted_change(scores: np.ndarray, keep: Tensor) -> np.ndarray:
    """The predicted change of each class's loss when only these samples are kept, (K,)."""
    change: np.ndarray = scores[~keep.numpy()].sum(axis=0) / len(scores)
    return change


def correlations(predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray]) -> tuple[float, float]:
    """Rank correlation over all values, and the mean over the classes of the correlation within a class."""
    a, b = np.array(predicted), np.array(measured)
    by_class = [spearmanr(a[:, k], b[:, k]).statistic for k in range(a.shape[1])]
    return float(spearmanr(a.ravel(), b.ravel()).statistic), float(np.mean(by_class))


def groups(scores: np.ndarray) -> list[Tensor]:
    """Two masks of kept samples per class: without the tenth that helps it most, and without the most harmful one."""
    size = len(scores) // 10
    kept = []
    for order in scores.T.argsort(axis=1):
        for removed in (order[-size:], order[:size]):
            keep = torch.ones(len(scores), dtype=torch.bool)
            keep[torch.from_numpy(removed)] = False
            kept.append(keep)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", type=float, default=0.1, help="share of flipped training labels")
    parser.add_argument("--seeds", type=int, default=5, help="fits for each measured change")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of each fit")
    parser.add_argument("--subsets", type=int, default=30, help="random halves for the linear datamodelling score")
    parser.add_argument("--curvature", default="ekfac", choices=["ekfac", "cg", "identity"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train, val = data(options.noise)
    everything = torch.ones(len(train), dtype=torch.bool)
    models = [fit(train, everything, seed, options.epochs) for seed in range(options.seeds)]
    loaders = DataLoader(train, batch_size=100), DataLoader(val, batch_size=100)
    matrices = [estimate_influence(model, *loaders, folds=1, curvature=options.curvature) for model in models]
    average = average_influence(matrices)
    scores = {"one model": matrices[0].scores, f"average of {options.seeds}": average.scores}
    before = np.mean([class_losses(model, val) for model in models], axis=0)
    accuracy = np.mean([(model(val.tensors[0]).argmax(1) == val.tensors[1]).float().mean().item() for model in models])
    print(f"{len(train)} training and {len(val)} validation samples, accuracy {accuracy:.1%}, {options.curvature}")

    kept = groups(average.scores)
    changes = [retrained_losses(train, val, keep, options.seeds, options.epochs) - before for keep in kept]
    print(f"\nRemoval of {len(kept)} groups of {len(train) // 10}, {options.seeds} seeds each: rank correlation")
    report(scores, kept, changes)

    generator = torch.Generator().manual_seed(1)
    halves = [torch.randperm(len(train), generator=generator) < len(train) // 2 for _ in range(options.subsets)]
    changes = [retrained_losses(train, val, keep, options.seeds, options.epochs) - before for keep in halves]
    print(f"\nLinear datamodelling, {options.subsets} random halves, {options.seeds} seeds each: rank correlation")
    report(scores, halves, changes)
    if importlib.util.find_spec("kronfluence") is not None:
        report({"one model, kronfluence": kronfluence_scores(models[0], train, val, CLASSES)[0]}, halves, changes)


def report(scores: dict[str, np.ndarray], kept: list[Tensor], changes: list[np.ndarray]) -> None:
    for name, matrix in scores.items():
        overall, by_class = correlations([predicted_change(matrix, keep) for keep in kept], changes)
        print(f"  {name:<24} overall {overall:.3f}, mean over the classes {by_class:.3f}", flush=True)


if __name__ == "__main__":
    main()
