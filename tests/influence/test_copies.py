"""Copies of training samples in a validation set, among samples that are made when they are read."""

import warnings

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


class Texts(Dataset):
    """Texts of equal length but for one in a hundred, which is longer."""

    def __init__(self, size, seed):
        generator = torch.Generator().manual_seed(seed)
        lengths = [14 if index % 100 == 99 else 6 for index in range(size)]
        self.texts = [torch.randint(1, 20, (length,), generator=generator) for length in lengths]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index], index % CLASSES


def padded(samples):
    texts, labels = zip(*samples, strict=True)
    return torch.nn.utils.rnn.pad_sequence(texts, batch_first=True), torch.tensor(labels)


class MeanOfWords(nn.Module):
    """Averages over words, or over padding as well."""

    def __init__(self, masked):
        super().__init__()
        self.embedding, self.head, self.masked = nn.Embedding(20, 6), nn.Linear(6, CLASSES), masked

    def forward(self, text):
        words = (text > 0).float()[:, :, None] if self.masked else torch.ones(*text.shape, 1)
        return self.head((self.embedding(text) * words).sum(1) / words.sum(1))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("masked", [False, True])
def test_padding_that_only_a_few_long_samples_cause_is_found(masked, seed):
    torch.manual_seed(seed)
    loaders = [DataLoader(Texts(300, 2 * seed + n), 32, collate_fn=padded) for n in range(2)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimate_influence(MeanOfWords(masked), *loaders, curvature="identity", folds=1)
    assert any("unmasked padding" in str(each.message) for each in caught) == (not masked)
