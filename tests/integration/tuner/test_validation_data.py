"""Validation samples that join the training data."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto.integration.tuner.validation_data import joined
from tests.integration._models import Data, datasets


def rows(loader):
    return torch.cat([batch[0] for batch in loader]).tolist()


class Numbers(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.arange(10)), batch_size=4)

    def val_dataloader(self):
        return DataLoader(TensorDataset(torch.arange(100, 106)), batch_size=4)


def test_joined_samples_leave_the_validation_data():
    data = Numbers()
    chosen = np.array([True, False, True, False, False, False])
    twin = joined(data, 0, chosen)
    loader = twin.train_dataloader()
    first, second = rows(loader), rows(loader)
    assert sorted(first) == sorted(second) == [*range(10), 100, 102]
    assert first != second, "shuffled"
    assert rows(twin.val_dataloader()) == [101, 103, 104, 105]
    assert rows(data.val_dataloader()) == list(range(100, 106)), "that of the user is unchanged"
    everything = joined(data, 0, np.ones(6, dtype=bool))
    assert len(rows(everything.train_dataloader())) == 16
    assert rows(everything.val_dataloader()) == list(range(100, 106))


@pytest.mark.filterwarnings("ignore:.*pin_memory")
@pytest.mark.parametrize("kind", ["class", "from_datasets"])
def test_joined_data_contain_each_sample_once(kind):
    data = Data(val=datasets()[1])
    if kind == "from_datasets":
        data = pl.LightningDataModule.from_datasets(data.train, data.val, batch_size=32)
    train, val = (dataset.tensors[0] for dataset in datasets()[:2])
    some = np.arange(len(val)) % 3 == 0
    for chosen, left in ((some, val[~some]), (np.ones(len(val), dtype=bool), val)):
        both = joined(data, 0, chosen)
        seen = torch.cat([x for x, _ in both.train_dataloader()])
        assert sorted(seen.tolist()) == sorted(torch.cat([train, val[chosen]]).tolist())
        assert torch.equal(torch.cat([x for x, _ in both.val_dataloader()]), left)
    assert sum(len(y) for _, y in data.train_dataloader()) == 240  # that of the user is unchanged
    assert sum(len(y) for _, y in data.val_dataloader()) == len(val)


@pytest.mark.parametrize("kind", [list, dict])
def test_only_the_chosen_validation_loader_loses_samples(kind):
    class Several(Data):
        def val_dataloader(self):
            loaders = [super(Several, self).val_dataloader() for _ in range(2)]
            return loaders if kind is list else dict(zip("ab", loaders, strict=True))

    size = len(datasets()[1])
    both = joined(Several(val=datasets()[1]), 1, np.arange(size) < 10)
    found = both.val_dataloader()
    first, second = found if kind is list else (found["a"], found["b"])
    assert (len(first.dataset), len(second.dataset)) == (size, size - 10)
    assert sum(len(y) for _, y in both.train_dataloader()) == 240 + 10
