"""Samples that a training and a validation set share."""

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split

from lightning_pareto.data.overlap import refuse_overlap, shared_samples

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


class Augmented(Dataset):
    """Wraps a part under a name of its own."""

    def __init__(self, part):
        self.mine = part

    def __len__(self):
        return len(self.mine)


class Making(Dataset):
    """Makes what it wraps whenever it is asked."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    @property
    def dataset(self):
        return Pictures(list(range(self.size)), None)


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
        (Augmented(Subset(WHOLE, range(8))), Augmented(Subset(WHOLE, range(6, 10))), 2),
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
        (Pictures(np.arange(10), None), Pictures(np.arange(10), None)),
        (TensorDataset(Y, X), TensorDataset(Y, X.clone())),
        (Making(10), Making(10)),
    ],
)
def test_parts_without_common_samples_share_none(one, other):
    assert shared_samples(one, other) == 0


N = 400
POINTS = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(N) % 2
TEXTS = [f"This is sentence number {i}, and it is long enough." for i in range(N)]
HALF = slice(0, N, 2)


class Held(Dataset):
    """Holds whatever it is given as attributes, and names and numbers of its samples."""

    def __init__(self, size=N, **attributes):
        self.names, self.numbers = [f"sample {i}" for i in range(size)], list(range(size))
        vars(self).update(attributes)

    def __len__(self):
        return len(self.names)


def held(kind, points=POINTS):
    """A dataset whose samples come with these points, in one of many forms."""
    frame = pd.DataFrame(points.numpy(), columns=["a", "b", "c"])
    items = list(zip(points, LABELS.tolist(), strict=False))
    return {
        "tensors": TensorDataset(points.clone(), LABELS),
        "list": items,
        "array": Held(data=points.numpy(), targets=LABELS.tolist()),
        "bfloat16": Held(inputs=points.bfloat16()),
        "frame": Held(frame=frame.assign(text=[str(row) for row in points.tolist()])),
        "dictionaries": Held(rows=[{"ids": row, "label": 0} for row in points.tolist()]),
        "tokens": Held(ids=[[int(1000 * value) for value in row] * (1 + i % 2) for i, row in enumerate(points)]),
        "texts": Held(texts=[f"A text of three numbers, {row}, without an end" for row in points.tolist()]),
        "images": Held(images=[PIL.Image.fromarray(np.uint8(80 * row[None].numpy() % 256)) for row in points]),
    }[kind]


KINDS = ["tensors", "list", "array", "bfloat16", "frame", "dictionaries", "tokens", "texts", "images"]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_refused(kind):
    train, validation = random_split(held(kind), [300, 100], torch.Generator().manual_seed(0))
    refuse_overlap(train, validation)
    other, _ = random_split(held(kind), [300, 100], torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=r"about [678]\d% of the validation samples are copies of training samples"):
        refuse_overlap(other, validation)
    with pytest.raises(ValueError, match="about 100%"):
        refuse_overlap(ConcatDataset([train, Subset(held(kind), validation.indices)]), validation)
    refuse_overlap(held(kind), held(kind, POINTS + 1))


@pytest.mark.parametrize("form", [lambda x: x.mT.contiguous().mT, torch.Tensor.numpy, list])
def test_large_arrays_are_compared_in_any_form(form):
    points = torch.randn(N, 30, 20, generator=torch.Generator().manual_seed(1))
    train = Held(data=points)
    refuse_overlap(train, Held(data=form(points + 1)))
    with pytest.raises(ValueError, match="about 100%"):
        refuse_overlap(train, Held(data=form(points.clone())))


def test_same_files_are_refused_and_same_names_elsewhere_are_not(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "0.png").write_text("")
    train, val = (Held(samples=[(f"{tmp_path}/{part}/{i}.png", 0) for i in range(N)]) for part in ("train", "val"))
    refuse_overlap(train, val)
    refuse_overlap(Held(samples=[(f"{i}.png", 0) for i in range(N)]), Held(samples=[(f"{i}.png", 0) for i in range(N)]))
    with pytest.raises(ValueError, match="about 100%"):
        refuse_overlap(train, Held(samples=list(train.samples)))


def test_data_that_repeat_themselves_are_no_copies():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(6, (2, 1000, 3), generator=generator).float()
    refuse_overlap(TensorDataset(coarse[0], torch.zeros(1000)), TensorDataset(coarse[1], torch.zeros(1000)))


def test_a_few_copies_are_warned_of():
    points = torch.randn(3000, 3, generator=torch.Generator().manual_seed(2))
    train, val = points[:2000], torch.cat([points[:100], points[2000:]])
    with pytest.warns(UserWarning, match=r"about (7|8|9|1\d)% of the validation samples are copies"):
        refuse_overlap(TensorDataset(train), TensorDataset(val))


def test_share_of_copies_is_that_of_a_large_set():
    points = torch.randn(50_000, 2, generator=torch.Generator().manual_seed(3))
    with pytest.raises(ValueError, match=r"about [3456]\d% of"):
        refuse_overlap(TensorDataset(points), TensorDataset(torch.cat([points[:5000], torch.randn(5000, 2)])))


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
    refuse_overlap(odd, Odd(data))
