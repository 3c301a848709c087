"""Copies of training samples in a validation set, among samples that are made when they are read."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from lightning_pareto import check_pareto, estimate_influence, reweight
from tests._oracles import loader

CLASSES = 3


class Made(Dataset):
    """Makes the sample of each number when it is read. The same numbers are the same samples."""

    def __init__(self, numbers):
        self.numbers = numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = int(self.numbers[index])
        return np.random.default_rng(number).normal(size=5).astype(np.float32), number % CLASSES


def estimate(train, validation, dtype=torch.float32):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return estimate_influence(module, DataLoader(train, 32), DataLoader(validation, 50), curvature="identity")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_are_refused_before_the_passes(dtype):
    with pytest.raises(ValueError, match=r"about [789]\d% of the validation samples are copies of training samples"):
        estimate(Made(np.arange(1000)), Made(np.arange(800, 1050)), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_samples_are_not(dtype):
    assert not estimate(Made(np.arange(1000)), Made(np.arange(1000, 1250)), dtype).metadata["self_influence"]


def test_samples_that_repeat_by_nature_are_not():
    numbers = np.random.default_rng(0).integers(300, size=900)
    assert len(estimate(Made(numbers[:600]), Made(numbers[600:])).labels) == 600


def test_a_few_copies_are_warned_of():
    with pytest.warns(UserWarning, match=r"about (9|1\d)% of the validation samples are copies"):
        estimate(Made(np.arange(1000)), Made(np.arange(900, 1900)))


def test_subsets_of_one_dataset_that_overlap_are_refused():
    whole = Made(np.arange(100))
    with pytest.raises(ValueError, match="5 of 25 validation samples are training samples, too"):
        estimate(Subset(whole, range(80)), Subset(whole, range(75, 100)))


@pytest.mark.filterwarnings("ignore:no (training|validation) samples of")
def test_logits_of_a_masked_class_are_compared_without_overflow():
    class Masked(nn.Linear):
        def forward(self, x):
            return super().forward(x).index_fill(1, torch.tensor([2]), torch.finfo(torch.float32).min)

    numbers = np.arange(1300)
    train, validation = (Made(part[part % CLASSES < 2]) for part in (numbers[:1000], numbers[1000:]))
    found = estimate_influence(Masked(5, CLASSES), DataLoader(train, 32), DataLoader(validation, 50), folds=1)
    assert np.isfinite(found.scores[:, :2]).all()


@pytest.mark.parametrize("conclude", [check_pareto, reweight])
def test_influence_of_a_set_on_itself_is_computed_but_proves_nothing(conclude):
    data = loader(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % CLASSES)
    influence = estimate_influence(nn.Linear(3, CLASSES), data, data, curvature="identity", folds=1)
    assert np.isfinite(influence.scores).all()
    with pytest.raises(ValueError, match="influence of the training set on itself"):
        conclude(influence)
