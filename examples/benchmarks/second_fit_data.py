"""Reads the data sets of `second_fit.py` that no package provides, and draws splits from them."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from main_job import Split, flip_labels
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

Part = tuple[Tensor, Tensor]
Text = tuple[str, str]


def cifar10(folder: Path) -> tuple[Part, Part, list[str]]:
    """Training part, test part and class names of the binary version: one byte of label, 3,072 bytes of pixels."""

    def read(name: str) -> Part:
        rows = np.fromfile(folder / name, np.uint8).reshape(-1, 1 + 3072)
        return _standardised(rows[:, 1:].reshape(-1, 3, 32, 32)), torch.from_numpy(rows[:, 0].astype(np.int64))

    parts = [read(f"data_batch_{i}.bin") for i in range(1, 6)]
    names = [name for name in (folder / "batches.meta.txt").read_text().splitlines() if name]
    return (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])), read("test_batch.bin"), names


def stl10(folder: Path) -> tuple[Part, Part, list[str]]:
    """The same for STL-10, with 96 × 96 pixels reduced to 32 × 32. Images are stored by column; labels start at 1."""

    def read(part: str) -> Part:
        pixels = np.fromfile(folder / f"{part}_X.bin", np.uint8).reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
        labels = np.fromfile(folder / f"{part}_y.bin", np.uint8).astype(np.int64) - 1
        return F.avg_pool2d(_standardised(pixels), 3), torch.from_numpy(labels)

    return read("train"), read("test"), (folder / "class_names.txt").read_text().split()


def ag_news(folder: Path, vocabulary: int, length: int) -> tuple[Part, Part, list[str]]:
    """The same for AG News. Each line of train.csv and test.csv has a class (from 1), a title and a text."""

    def read(part: str) -> list[Text]:
        with (folder / f"{part}.csv").open(newline="", encoding="utf-8") as file:
            return [(f"{title} {text}".lower(), label) for label, title, text in csv.reader(file) if label.isdigit()]

    train, test, _, names = texts(read("train"), read("test"), [], vocabulary=vocabulary, length=length)
    return train, test, names


def texts(*parts: list[Text], vocabulary: int, length: int) -> tuple[Part, Part, Part, list[str]]:
    """Convert three lists of (text, label) to tokens and labels, and return the names of the labels.

    The vocabulary holds the most common words of the first list. Token 0 is padding and 1 an unknown word.
    """
    counts = Counter(word for text, _ in parts[0] for word in text.split())
    number = {word: i for i, (word, _) in enumerate(counts.most_common(vocabulary - 2), start=2)}
    names = sorted({label for _, label in parts[0]})

    def read(part: list[Text]) -> Part:
        tokens = torch.zeros(len(part), length, dtype=torch.int64)
        for row, (text, _) in zip(tokens, part, strict=True):
            found = [number.get(word, 1) for word in text.split()[:length]]
            row[: len(found)] = torch.tensor(found)
        return tokens, torch.tensor([names.index(label) for _, label in part], dtype=torch.int64)

    first, second, third = map(read, parts)
    return first, second, third, names


def random_splits(
    train: Part, test: Part, class_names: list[str], noise: float, size: int, val_size: int
) -> Callable[[int], Split]:
    """Make a function that draws training and validation samples from ``train`` by seed and flips training labels."""
    x, y = train

    def split(seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(y), generator=generator)
        chosen, val = order[:size], order[size:][:val_size]
        given, flipped = flip_labels(y[chosen], noise, len(class_names), generator)
        return Split(
            TensorDataset(x[chosen], given), TensorDataset(x[val], y[val]), TensorDataset(*test), flipped, class_names
        )

    return split


def _standardised(pixels: np.ndarray) -> Tensor:
    return (torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255 - 0.45) / 0.25
