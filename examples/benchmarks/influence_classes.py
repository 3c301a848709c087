"""How do time and memory of the influence matrix grow with the number of classes?

    pip install lightning_pareto
    python examples/benchmarks/influence_classes.py [--only MLP --classes 10 100] [--device cuda]

Each row runs in a process of its own, on random data whose classes differ in their means, after an epoch of training.
The table shows:

* epochs: duration of ``estimate_influence`` in epochs of plain training on the same data,
* GiB: peak of the memory above that at the start, results included,
* correlation: the lowest one between truncated and whole directions, as ``estimate_influence`` measures it,
* seconds of an epoch.

``--whole`` switches the truncation off. ``--kronfluence`` compares with kronfluence instead, which must be installed:
its seconds with whole gradients and with those of a rank, and the lowest correlation over the classes between
truncated and whole scores of either. ResNet-18 takes minutes per row on a CPU.
"""

import argparse
import itertools
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from influence_memory import PeakMemory, resident
from influence_speed import Encoder, kronfluence_scores, now, train_epoch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto import estimate_influence


class Block(nn.Module):
    """A basic block of a residual network."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        narrow = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.skip = nn.Identity() if inputs == outputs else narrow

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + self.skip(x))


def resnet18(classes: int) -> nn.Module:
    """ResNet-18 for images of 32 × 32, 11 million parameters."""
    widths = (64, 64, 128, 256, 512)
    blocks = [
        Block(inputs if first else outputs, outputs, 1 + (first and inputs != outputs))
        for inputs, outputs in itertools.pairwise(widths)
        for first in (True, False)
    ]
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, classes),
    )


def small_net(classes: int) -> nn.Module:
    """Three convolutions and two linear layers for images of 32 × 32, 0.4 million parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, classes))


def mlp(classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, classes))


MODELS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...], int]] = {
    "small convolutional net": (small_net, (3, 32, 32), 2_000),
    "MLP": (mlp, (784,), 10_000),
    "transformer encoder": (lambda classes: Encoder(classes=classes), (24,), 5_000),
    "ResNet-18": (resnet18, (3, 32, 32), 1_000),
}
"""Each model, the shape of a sample, and the number of training samples."""


def data(shape: tuple[int, ...], classes: int, size: int, seed: int) -> TensorDataset:
    """Samples of classes with different means, or with different tokens for a text."""
    generator, centres = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    y = torch.arange(size) % classes
    if len(shape) == 1 and shape[0] < 100:
        common = torch.randint(5_000, (classes, 8), generator=centres)
        tokens = torch.randint(5_000, (size, shape[0]), generator=generator)
        return TensorDataset(torch.cat([common[y][:, :4], tokens[:, 4:]], dim=1), y)
    means = 0.3 * torch.randn(classes, *shape, generator=centres)
    return TensorDataset(means[y] + torch.randn(size, *shape, generator=generator), y)


def measure(options: argparse.Namespace) -> None:
    """Print epochs, GiB, correlation and seconds of an epoch of one case."""
    make, shape, size = MODELS[options.one]
    classes, device = options.classes[0], torch.device(options.device)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = make(classes).to(device)
    train, val = data(shape, classes, options.train or size, 1), data(shape, classes, options.val, 2)
    epoch = min(train_epoch(model, train, device, nullcontext) for _ in range(2))
    loaders = [DataLoader(part, batch_size=256) for part in (train, val)]
    before, start = resident(), now(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    how = {"truncation": 0.0} if options.whole else {}
    with PeakMemory() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = estimate_influence(model, *loaders, folds=options.folds, **how)  # type: ignore[arg-type]
    seconds = now(device) - start
    peak = torch.cuda.max_memory_allocated() - allocated if device.type == "cuda" else memory.peak - before
    correlation = found.metadata.get("truncation_correlation", 1.0)
    print(f"{seconds / epoch:.1f} {peak / 2**30:.2f} {correlation:.4f} {epoch:.2f}")


def compare(options: argparse.Namespace) -> None:
    """Print how kronfluence compares on one case."""
    make, shape, size = MODELS[options.one]
    classes = options.classes[0]
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = make(classes)
    train, val = data(shape, classes, options.train or size, 1), data(shape, classes, options.val, 2)
    for _ in range(2):
        train_epoch(model, train, torch.device("cpu"), nullcontext)
    loaders = [DataLoader(part, batch_size=256) for part in (train, val)]
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    ours = estimate_influence(model, *loaders, folds=options.folds).scores
    seconds = time.perf_counter() - start
    whole = estimate_influence(model, *loaders, folds=1, truncation=0.0).scores
    theirs, *spent = kronfluence_scores(model, train, val, classes)
    low_rank, *spent_low_rank = kronfluence_scores(model, train, val, classes, rank=options.kronfluence)
    pairs = ((ours, whole), (low_rank, theirs), (theirs, whole))
    lowest = [min(np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(classes)) for a, b in pairs]
    times = (
        f"{seconds:.1f} s, kronfluence {sum(spent):.1f} s, at rank {options.kronfluence} {sum(spent_low_rank):.1f} s"
    )
    correlations = f"of ours {lowest[0]:.4f}, of kronfluence's {lowest[1]:.4f}, between both {lowest[2]:.4f}"
    print(f"{options.one}, {classes} classes: {times}. Correlation with whole scores: {correlations}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(MODELS), help="run only the models whose names contain these")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 50, 100, 200, 1_000])
    parser.add_argument("--train", type=int, help="number of training samples, other than that of the model")
    parser.add_argument("--val", type=int, default=1_000, help="number of validation samples")
    parser.add_argument("--folds", type=int, default=8, help="folds of the validation set")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda"')
    parser.add_argument("--whole", action="store_true", help="do not truncate the directions")
    parser.add_argument("--kronfluence", type=int, metavar="RANK", help="compare with kronfluence, also at this rank")
    parser.add_argument("--one", choices=list(MODELS), help="measure this model in this process")
    options = parser.parse_args()
    if options.one:
        measure(options) if options.kronfluence is None else compare(options)
        return
    print(f"{'model':<24} {'classes':>7} {'epochs':>7} {'GiB':>6} {'correlation':>12} {'s an epoch':>11}")
    for name in [name for name in MODELS if any(part in name for part in options.only)]:
        for classes in options.classes:
            command = [sys.executable, __file__, "--one", name, "--classes", str(classes), "--val", str(options.val)]
            command += ["--folds", str(options.folds), "--threads", str(options.threads), "--device", options.device]
            command += ["--train", str(options.train)] if options.train else []
            command += ["--whole"] if options.whole else []
            command += ["--kronfluence", str(options.kronfluence)] if options.kronfluence else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            if options.kronfluence:
                print(done.stdout.strip().splitlines()[-1], flush=True)
                continue
            epochs, peak, correlation, epoch = done.stdout.split()[-4:]
            print(f"{name:<24} {classes:>7} {epochs:>7} {peak:>6} {correlation:>12} {epoch:>11}", flush=True)


if __name__ == "__main__":
    main()
