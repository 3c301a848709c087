"""The data sets with weak classes for `second_fit.py`, and how to fit them."""

import argparse
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.append(str(Path(__file__).parents[1]))  # the other examples
import fashion_mnist
from fashion_mnist import CLASSES
from influence_speed import resnet9
from main_job import Job, Split, flip_labels
from quickstart import digits
from quickstart import network as digits_network
from second_fit_data import Part, ag_news, cifar10, random_splits, stl10, texts

CONFUSED = {"shirt": "T-shirt", "pullover": "coat", "boot": "sneaker"}
LENGTH = 24
VOCABULARY = 4_000


@dataclass(frozen=True)
class Case:
    """A data set and how to fit it."""

    split: Callable[[int], Split]
    job: Job


class Encoder(nn.Module):
    """A small transformer encoder over tokens. Token 0 is padding."""

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.positions = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.encoder = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        kept = (tokens > 0).float()[:, :, None]
        x = self.encoder(self.embedding(tokens) + self.positions)
        return self.head((x * kept).sum(1) / kept.sum(1).clamp(min=1))  # type: ignore[no-any-return]


def emotion(folder: Path, noise: float, size: int) -> Callable[[int], Split]:
    """The Emotion texts: train.txt, val.txt and test.txt with a header and lines ``text;label``."""

    def read(part: str) -> list[tuple[str, str]]:
        lines = (folder / f"{part}.txt").read_text().splitlines()[1:]
        return [(text, label) for text, label in (line.rsplit(";", 1) for line in lines)]

    parts = [read(part) for part in ("train", "val", "test")]
    (x, y), val, test, names = texts(*parts, vocabulary=VOCABULARY, length=LENGTH)

    def split(seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(y), generator=generator)[:size]
        given, flipped = flip_labels(y[chosen], noise, len(names), generator)
        return Split(TensorDataset(x[chosen], given), TensorDataset(*val), TensorDataset(*test), flipped, names)

    return split


def fashion(options: argparse.Namespace, noise: float, imbalance: float, confused: float) -> Callable[[int], Split]:
    """Fashion-MNIST with random wrong labels, underrepresented even classes, or labels confused in one direction."""
    train, test = fashion_mnist.load(options.data)
    chosen = argparse.Namespace(
        samples=options.samples, val_samples=options.val_samples, noise=noise, imbalance=imbalance
    )

    def split(seed: int) -> Split:
        found = fashion_mnist.make_split(train, test, seed, chosen)
        x, y = found.train.tensors
        generator, given = torch.Generator().manual_seed(seed), y.clone()
        for true, wrong in CONFUSED.items():
            hit = (y == CLASSES.index(true)) & (torch.rand(len(y), generator=generator) < confused)
            given[hit] = CLASSES.index(wrong)
        flipped = found.flipped | (given != y).numpy()
        return Split(TensorDataset(x, given), found.val, found.test, flipped, CLASSES)

    return split


def planes(overlapping: bool) -> Callable[[int], Split]:
    """Two classes in the plane (the paper's Figure 2): overlapping, or separable with 50 + 20 of 600 labels wrong."""

    def split(seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for size in (600, 600, 10_000):
            y = torch.arange(size) % 2
            x = torch.randn(size, 2, generator=generator)
            x[:, 0] += (1.0 if overlapping else 3.0) * (2 * y - 1)
            parts.append((x, y))
        (x, y), val, test = parts
        given = y.clone()
        if not overlapping:
            for label, count in enumerate((50, 20)):
                given[(y == label).nonzero().squeeze(1)[:count]] = 1 - label
        flipped: np.ndarray = (given != y).numpy()
        return Split(TensorDataset(x, given), TensorDataset(*val), TensorDataset(*test), flipped, ["left", "right"])

    return split


def plane_network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))


def cases(options: argparse.Namespace) -> dict[str, Callable[[], Case]]:
    """All cases by name. A data set is read when its case is made."""
    image = Job(fashion_mnist.network, options.epochs, batch_size=128, lr=3e-3, budget=0.3)
    digit = Job(digits_network, epochs=15, batch_size=64, lr=5e-3, budget=0.3)
    plane = Job(plane_network, epochs=10, batch_size=32, lr=1e-2, budget=0.2)
    text = Job(lambda: Encoder(6), options.epochs, batch_size=64, lr=2e-3, budget=0.3)
    found: dict[str, Callable[[], Case]] = {
        "plane, separable, 50 + 20 wrong": lambda: Case(planes(overlapping=False), plane),
        "plane, overlapping": lambda: Case(planes(overlapping=True), plane),
        "digits, clean": lambda: Case(lambda seed: digits(seed, 0.0), digit),
        "digits, 30 % wrong": lambda: Case(lambda seed: digits(seed, 0.3), digit),
        "Fashion-MNIST, clean": lambda: Case(fashion(options, 0.0, 0.0, 0.0), image),
        "Fashion-MNIST, 30 % wrong": lambda: Case(fashion(options, 0.3, 0.0, 0.0), image),
        "Fashion-MNIST, confused": lambda: Case(fashion(options, 0.0, 0.0, 0.3), image),
        "Fashion-MNIST, 20 % wrong, imbalanced": lambda: Case(fashion(options, 0.2, 0.7, 0.0), image),
    }
    size, val = options.samples, options.val_samples
    residual = Job(lambda: resnet9(8, channels=1), options.epochs, batch_size=128, lr=1e-2, budget=0.3)
    colour = Job(lambda: resnet9(16), options.epochs, batch_size=128, lr=1e-2, budget=0.3)
    found["Fashion-MNIST (ResNet-9), 30 % wrong"] = lambda: Case(fashion(options, 0.3, 0.0, 0.0), residual)

    def pictures(folder: Path, read: Callable[[Path], tuple[Part, Part, list[str]]], noise: float) -> Case:
        train, test, names = read(folder)
        return Case(random_splits(train, test, names, noise, size, val), colour)

    for name, folder, read in (("CIFAR-10", options.cifar10, cifar10), ("STL-10", options.stl10, stl10)):
        for noise in (0.0, 0.3) if folder is not None else ():
            found[f"{name}, {noise:.0%} wrong, ResNet-9"] = functools.partial(pictures, folder, read, noise)
    if options.ag_news is not None:
        news = Job(lambda: Encoder(4), options.epochs, batch_size=64, lr=2e-3, budget=0.3)
        read_news = functools.partial(ag_news, options.ag_news, vocabulary=VOCABULARY, length=LENGTH)
        found["AG News, 0% wrong"] = lambda: Case(random_splits(*read_news(), 0.0, options.texts, val), news)
        found["AG News, 30% wrong"] = lambda: Case(random_splits(*read_news(), 0.3, options.texts, val), news)
    if options.emotion is not None:
        found["Emotion, clean"] = lambda: Case(emotion(options.emotion, 0.0, options.texts), text)
        found["Emotion, 20 % wrong"] = lambda: Case(emotion(options.emotion, 0.2, options.texts), text)
    return found
