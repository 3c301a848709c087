"""Samples that a training and a validation set share."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split

from lightning_pareto.data.overlap import shared_samples

X, Y = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 2
WHOLE = TensorDataset(X, Y)


class Transformed(Dataset):
    """Wraps another dataset."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        x, y = self.dataset[index]
        return 2 * x, y


class Pictures(Dataset):
    """As in torchvision: arrays and labels."""

    def __init__(self, data, targets):
        self.data, self.targets = data, targets

    def __len__(self):
        return len(self.data)


class Folder(Dataset):
    """As torchvision's ImageFolder: files and labels."""

    def __init__(self, samples, root="/images"):
        self.samples, self.root = samples, root
        self.targets = [label for _, label in samples]

    def __len__(self):
        return len(self.samples)


class Making(Dataset):
    """Makes what it wraps whenever it is asked."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    @property
    def dataset(self):
        return Pictures(list(range(self.size)), None)


FILES = [(f"{i}.png", i % 2) for i in range(10)]


def pictures(seed=0):
    return Pictures(np.random.default_rng(seed).integers(0, 255, (10, 4, 4)), Y.tolist())


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (WHOLE, WHOLE, 10),
        (Subset(WHOLE, [0, 1, 2]), Subset(WHOLE, [2, 3, 0, 4]), 2),
        (Subset(Subset(WHOLE, [5, 6, 7]), [0, 1]), Subset(WHOLE, [6, 7]), 1),
        (ConcatDataset([TensorDataset(torch.randn(4, 3), Y[:4]), WHOLE]), Subset(WHOLE, [9]), 1),
        (Subset(ConcatDataset([Subset(WHOLE, [0, 1]), Subset(WHOLE, [8, 9])]), [1, 3]), Subset(WHOLE, [9, 0]), 1),
        (Transformed(Subset(WHOLE, range(8))), Transformed(Subset(WHOLE, range(6, 10))), 2),
        (TensorDataset(X[:6], Y[:6]), TensorDataset(X[4:], Y[4:]), 2),
        (Subset(pictures(), range(7)), Subset(pictures(), range(5, 10)), 2),
        (Subset(Folder(FILES), range(7)), Subset(Folder(FILES), range(6, 10)), 1),
    ],
)
def test_shared_samples_are_counted(one, other, shared):
    assert shared_samples(one, other) == shared_samples(other, one) == shared


@pytest.mark.parametrize(
    ("one", "other"),
    [
        random_split(WHOLE, [6, 4]),
        (TensorDataset(X[:6], Y[:6]), TensorDataset(X[6:], Y[6:])),
        (TensorDataset(X, Y), TensorDataset(X.clone() + 1, Y)),
        (pictures(0), pictures(1)),
        (Folder(FILES), Folder([(f"val/{name}", label) for name, label in FILES])),
        (Subset(pictures(), range(5)), Subset(pictures(), range(5, 10))),
        (Folder(FILES, "train"), Folder(FILES, "val")),
        (Folder(FILES, ""), Folder(FILES, "")),
        (Pictures(np.arange(10), None), Pictures(np.arange(10), None)),
        (TensorDataset(Y, X), TensorDataset(Y, X.clone())),
        (Making(10), Making(10)),
    ],
)
def test_parts_without_common_samples_share_none(one, other):
    assert shared_samples(one, other) == 0


class Odd(Dataset):
    """Has attributes of the usual names with other contents, and wraps itself."""

    def __init__(self, data):
        self.data, self.samples, self.targets = data, [()] * 10, Y
        self.dataset = self

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize(
    "data",
    [
        torch.zeros(10, 2, dtype=torch.bfloat16),
        torch.zeros(10, 2, requires_grad=True),
        torch.zeros(()),
        np.array([object()] * 10),
        None,
    ],
)
def test_attributes_of_any_kind_do_no_harm(data):
    odd = Odd(data)
    assert shared_samples(odd, WHOLE) == 0
    assert shared_samples(odd, Subset(odd, [1, 2])) == 2
